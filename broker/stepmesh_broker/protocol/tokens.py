"""Tokens that name a wait to the world outside: text that fits into an address line, with a check that only its deployment can make.

Invariant: who does not know the secret cannot make a token that is genuine; what a token names can be read by anybody. Pure.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode

import msgspec

from stepmesh_broker.protocol.letters import Waiter

PREFIX = "smt_"
_CHECK = 15
_LONGEST = 2_000
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Waiter)


def token_of(waiter: Waiter, secret: str) -> str:
    """The same whenever it is made."""
    named = _encoder.encode(waiter)
    return PREFIX + urlsafe_b64encode(_check(named, secret) + named).decode().rstrip("=")


def read_token(token: str) -> Waiter | None:
    """What it names, genuine or not; None for what is no token at all."""
    data = _bytes(token)
    try:
        return None if data is None else _decoder.decode(data[_CHECK:])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def is_genuine(token: str, secret: str) -> bool:
    """Whether who made it knew the secret."""
    data = _bytes(token)
    return data is not None and hmac.compare_digest(data[:_CHECK], _check(data[_CHECK:], secret))


def _check(named: bytes, secret: str) -> bytes:
    key = hashlib.sha256(f"stepmesh token {secret}".encode()).digest()
    return hashlib.blake2b(named, key=key, digest_size=_CHECK).digest()


def _bytes(token: str) -> bytes | None:
    text = token.removeprefix(PREFIX)
    if text == token or len(text) > _LONGEST or not text.isascii():
        return None
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return None
