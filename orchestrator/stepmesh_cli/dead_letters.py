"""`stepmesh dead-letters`: messages that nobody could take, with the reason; looked at, sent again, or dropped once they are dealt with."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import App, Parameter

from stepmesh import Client
from stepmesh.errors import RequestRefused
from stepmesh_broker.protocol.dead_letters import MOST, DeadLetter
from stepmesh_broker.protocol.records import Topic
from stepmesh_cli import exits
from stepmesh_cli.connection import HERE, Target, connected, run_to_end
from stepmesh_cli.errors import CommandError
from stepmesh_cli.reporting import say
from stepmesh_cli.tables import print_json, print_table

_SHOWN = 60
"""Characters of a letter in the table."""
dead_letters = App(name="dead-letters", help="List what nobody could take, send it again, or drop it.")


@dead_letters.default
def show(
    *,
    pool: str = "",
    limit: int = 100,
    drop: Annotated[tuple[int, ...], Parameter(negative="")] = (),
    target: Target = HERE,
    json: bool = False,
) -> int:
    """List what lies in the dead letters of a namespace, oldest first, or drop some of it for good.

    Parameters
    ----------
    pool
        Only tasks of this pool; records of topics are under `submit` and `events`.
    limit
        At most so many, up to 500.
    drop
        Position of a letter to remove; repeatable. Nothing is listed then.
    json
        One JSON object per line, with up to 4,096 bytes of each letter.
    """
    _check(limit)
    return run_to_end(_drop(target, drop, json) if drop else _list(target, pool, limit, json))


@dead_letters.command
def resend(*position: int, all: bool = False, pool: str = "", limit: int = 100, target: Target = HERE, json: bool = False) -> int:
    """Write records to the topic that they came from again, with their key and headers; what is written is no dead letter any more.

    Example: stepmesh dead-letters resend --all --pool submit

    Parameters
    ----------
    position
        Those at these positions.
    all
        In place of positions: all records of the topics that lie there, oldest first.
    pool
        With --all: of this topic only, `submit` or `events`.
    limit
        With --all: at most so many of each topic, up to 500.
    json
        One JSON object per letter.
    """
    _check(limit)
    if bool(position) is all:
        raise CommandError("say which dead letters: positions, or --all", hint="`stepmesh dead-letters` lists them")
    if pool and (not all or pool not in set(Topic)):
        raise CommandError(
            f"--pool {pool} is not for this", hint="with --all, `submit` or `events`: tasks of a pool go on by `stepmesh retry`"
        )
    return run_to_end(_resend(target, position, (pool,) if pool else tuple(Topic), limit, json))


def _check(limit: int) -> None:
    if not 1 <= limit <= MOST:
        raise CommandError(f"--limit {limit} is not between 1 and {MOST}", hint="drop what is dealt with, then list again")


async def _list(target: Target, pool: str, limit: int, as_json: bool) -> int:
    async with connected(target) as client:
        letters = await client.dead_letters(limit, pool)
    if as_json:
        for letter in letters:
            print_json(_object(letter))
    else:
        print_table(("position", "pool", "bytes", "reason", "data"), [_row(letter) for letter in letters])
    return exits.OK


async def _drop(target: Target, positions: tuple[int, ...], as_json: bool) -> int:
    async with connected(target) as client:
        for position in positions:
            await client.drop_dead_letter(position)
            if as_json:
                print_json({"position": position, "status": "dropped"})
            else:
                print(f"dead letter {position}: dropped")
    return exits.OK


async def _resend(target: Target, positions: tuple[int, ...], topics: tuple[str, ...], limit: int, as_json: bool) -> int:
    """One that is refused does not hold up the others."""
    async with connected(target) as client:
        if not positions:
            positions = tuple([one.position for topic in topics for one in await client.dead_letters(limit, topic)])
        return max([await _sent(client, position, as_json) for position in positions], default=exits.OK)


async def _sent(client: Client, position: int, as_json: bool) -> int:
    try:
        topic = await client.resend_dead_letter(position)
    except RequestRefused as problem:
        say(f"{problem.code} {problem.message}")
        if problem.hint:
            say(f"  → {problem.hint}")
        return exits.exit_code(problem)
    if as_json:
        print_json({"position": position, "status": "sent", "topic": topic})
    else:
        print(f"dead letter {position}: sent to {topic}")
    return exits.OK


def _row(letter: DeadLetter) -> tuple[Any, ...]:
    return letter.position, letter.pool, letter.size, letter.reason, ascii(letter.data[:_SHOWN].decode(errors="replace"))


def _object(letter: DeadLetter) -> dict[str, Any]:
    said = {"position": letter.position, "pool": letter.pool, "reason": letter.reason, "size": letter.size}
    name, data = letter.shown
    return {**said, name: data}
