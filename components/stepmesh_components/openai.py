"""`/openai`: one chat completion from any server that speaks OpenAI's API.

Invariants: what may pass (429, 5xx, no connection) is RESOURCE_UNAVAILABLE, with the server's `Retry-After` when it says one;
what will not (other 4xx) is COMPONENT_FAILED with the server's answer. The key is never part of an error.
API: POST `<base_url>/chat/completions` (OpenAI API reference, "Chat Completions").
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import msgspec

from stepmesh import ComponentError, InvalidInput, ResourceUnavailable, RetryLater

if TYPE_CHECKING:
    import httpx

OPENAI_URL = "https://api.openai.com/v1"
DEFAULT_MODEL = "gpt-4o-mini"
TIMEOUT_S = 600.0
"""Longest wait for one answer; a step's `timeout` is the usual, shorter limit."""
_BODY_LIMIT = 8_192
_MAX_DELAY_S = 24 * 3600.0


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`api_key` defaults to OPENAI_API_KEY, `base_url` to OPENAI_BASE_URL, then OpenAI's own. The rest as in OpenAI's API."""

    messages: list[dict[str, Any]]
    model: str = DEFAULT_MODEL
    base_url: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    api_key: str | None = None


class Answer(msgspec.Struct, frozen=True):
    """`response` is the first choice's text ("" when it only calls tools)."""

    response: str
    usage: dict[str, Any] | None = None
    tool_calls: list[dict[str, Any]] | None = None


async def openai(request: Request) -> Answer:
    """A chat completion by any OpenAI-compatible server."""
    import httpx  # only workers that use this component pay for it

    base_url = (request.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL).rstrip("/")
    key = request.api_key or os.environ.get("OPENAI_API_KEY")
    if key is None and base_url == OPENAI_URL:
        raise InvalidInput("no key: set OPENAI_API_KEY where the worker runs, or give api_key", path="$.api_key")
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
            response = await client.post(f"{base_url}/chat/completions", content=_body(request), headers=headers)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as problem:
        raise InvalidInput(f"base_url {base_url} does not work: {problem}", path="$.base_url") from problem
    except httpx.HTTPError as problem:
        raise ResourceUnavailable(f"{base_url} did not answer: {type(problem).__name__} {problem}".rstrip()) from problem
    if not response.is_success:
        raise _refusal(response)
    return _answer(response)


def _body(request: Request) -> bytes:
    optional = ("max_tokens", "temperature", "response_format", "tools")
    given = {name: value for name in optional if (value := getattr(request, name)) is not None}
    return msgspec.json.encode({"model": request.model, "messages": request.messages, **given})


def _answer(response: httpx.Response) -> Answer:
    try:
        told = msgspec.json.decode(response.content)
        message = told["choices"][0]["message"]
        return Answer(message.get("content") or "", told.get("usage"), message.get("tool_calls"))
    except (msgspec.MsgspecError, UnicodeDecodeError, LookupError, AttributeError, TypeError) as problem:
        raise ComponentError("the server's answer is not a chat completion", data=_told(response)) from problem


def _refusal(response: httpx.Response) -> ComponentError:
    message = f"the server answered {response.status_code} {response.reason_phrase}".rstrip()
    if response.status_code == 429 or response.status_code >= 500:
        after = _retry_after_s(response.headers.get("retry-after"))
        told = _told(response)
        return ResourceUnavailable(message, data=told) if after is None else RetryLater(after, message, data=told)
    return ComponentError(message, data=_told(response))


def _told(response: httpx.Response) -> dict[str, Any]:
    text = response.text[:_BODY_LIMIT]
    try:
        body = msgspec.json.decode(text)
    except msgspec.MsgspecError:
        body = text
    return {"status": response.status_code, "body": body}


def _retry_after_s(header: str | None) -> float | None:
    """Seconds from a `Retry-After` header (RFC 9110, 10.2.3: a number or a date), at most a day; None when there is none that reads."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
        except ValueError:
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(0.0, seconds), _MAX_DELAY_S) if seconds == seconds else None
