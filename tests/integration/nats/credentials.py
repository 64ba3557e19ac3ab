"""What `nsc` makes for a server that trusts an operator: the operator's and two accounts' tokens, and a user's credentials file."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import nkeys


def _pair(prefix: int) -> nkeys.KeyPair:
    return nkeys.from_seed(nkeys.encode_seed(os.urandom(32), prefix))


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _token(issuer: nkeys.KeyPair, subject: nkeys.KeyPair, name: str, claims: dict[str, Any]) -> str:
    body: dict[str, Any] = {
        "iat": int(time.time()),
        "iss": issuer.public_key.decode(),
        "name": name,
        "sub": subject.public_key.decode(),
        "nats": {**claims, "version": 2},
    }
    body["jti"] = base64.b32encode(hashlib.sha256(json.dumps(body).encode()).digest()).rstrip(b"=").decode()
    signed = ".".join(_encoded(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body))
    return f"{signed}.{_encoded(issuer.sign(signed.encode()))}"


class Operator:
    """`settings` are lines of the server's configuration; `user` writes a credentials file of the account with streams."""

    def __init__(self) -> None:
        self._key = _pair(nkeys.PREFIX_BYTE_OPERATOR)
        self._account, system = _pair(nkeys.PREFIX_BYTE_ACCOUNT), _pair(nkeys.PREFIX_BYTE_ACCOUNT)
        everything = {"subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "data": -1, "payload": -1, "wildcards": True}
        streams = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
        own = _token(self._key, self._key, "tests", {"type": "operator", "system_account": system.public_key.decode()})
        accounts = {
            self._account: _token(self._key, self._account, "team", {"type": "account", "limits": {**everything, **streams}}),
            system: _token(self._key, system, "SYS", {"type": "account", "limits": everything}),
        }
        preload = ", ".join(f"{key.public_key.decode()}: {token}" for key, token in accounts.items())
        self.settings = (f"operator: {own}", "resolver: MEMORY", f"resolver_preload: {{ {preload} }}")

    def user(self, file: Path, account: nkeys.KeyPair | None = None) -> Path:
        """A user of the account, or of an account that nobody knows."""
        user = _pair(nkeys.PREFIX_BYTE_USER)
        token = _token(account or self._account, user, "worker", {"type": "user", "subs": -1, "data": -1, "payload": -1})
        file.write_text(
            f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
        )
        return file

    @staticmethod
    def stranger() -> nkeys.KeyPair:
        """An account that no server knows."""
        return _pair(nkeys.PREFIX_BYTE_ACCOUNT)
