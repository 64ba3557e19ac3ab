"""Asks Redis what it would lose: whether a write is flushed, where else it is, and whether it may be evicted. Only asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from redis.asyncio import Redis
from redis.exceptions import RedisError

from stepmesh_broker.durability import NOT_VISIBLE, Finding
from stepmesh_orchestrator.ports import JournalError

_NAMES = ("appendonly", "appendfsync", "maxmemory", "maxmemory-policy", "min-replicas-to-write")
_TIMEOUT_S = 5.0


async def examine(url: str) -> list[Finding]:
    """Raises `JournalError`."""
    client: Redis = Redis.from_url(url, decode_responses=True, socket_connect_timeout=_TIMEOUT_S, socket_timeout=_TIMEOUT_S)
    try:
        replicas = int((await client.info("replication")).get("connected_slaves", 0))
        said: dict[str, str] = {}
        for name in _NAMES:
            try:
                said.update({str(key): str(value) for key, value in (await client.config_get(name)).items()})
            except RedisError:  # hosted ones permit no CONFIG
                break
    except (RedisError, OSError) as problem:
        why = f"Redis cannot be asked: {str(problem).strip() or type(problem).__name__}"
        raise JournalError(why, code="SM-0155", hint="is it up, and are address and password right?") from problem
    finally:
        await client.aclose()
    return list(findings(said, replicas))


def findings(said: Mapping[str, str], replicas: int) -> Iterator[Finding]:
    """What the settings mean. Empty: the server does not tell them."""
    if not said:
        yield Finding(
            "redis appendfsync", NOT_VISIBLE, "CONFIG is not permitted: ask whoever runs it", "appendonly yes, appendfsync always"
        )
    else:
        yield from _flushes(said["appendonly"] == "yes", said["appendfsync"])
        yield _evicts(said["maxmemory"], said["maxmemory-policy"])
    least = int(said.get("min-replicas-to-write", 0))
    lost = "" if replicas else "the loss of its machine or disk takes every run"
    lost = "replicas follow later: what they had not seen is lost when they take over" if replicas and not least else lost
    fix = ("min-replicas-to-write 1 narrows it" if replicas else "a replica, and backups of the append-only file") if lost else ""
    yield Finding("redis replicas", f"{replicas}, {least} needed to write", lost, fix)


def _flushes(kept: bool, when: str) -> Iterator[Finding]:
    lost = "" if kept else "a restart takes everything since the last snapshot (RDB)"
    yield Finding("redis appendonly", "yes" if kept else "no", lost, "" if kept else "appendonly yes")
    if kept:
        lost = {"always": "", "everysec": "power loss takes the last second or two"}.get(
            when, "power loss takes what the system had not flushed"
        )
        yield Finding("redis appendfsync", when, lost, "appendfsync always" if lost else "")


def _evicts(most: str, policy: str) -> Finding:
    evicts = most not in ("", "0") and policy.startswith("allkeys")
    full = "" if most in ("", "0") else f", at most {int(most):,} bytes"
    lost = "a full server throws journals away" if evicts else ""
    return Finding("redis maxmemory-policy", policy + full, lost, "maxmemory-policy noeviction" if evicts else "")
