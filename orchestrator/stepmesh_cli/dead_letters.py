"""`stepmesh dead-letters`: messages that nobody could take, with the reason; looked at, and dropped once they are dealt with."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from stepmesh_broker.protocol.dead_letters import MOST, DeadLetter
from stepmesh_cli import exits
from stepmesh_cli.connection import HERE, Target, connected, run_to_end
from stepmesh_cli.errors import CommandError
from stepmesh_cli.tables import print_json, print_table

_SHOWN = 60
"""Characters of a letter in the table."""


def dead_letters(
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
    if not 1 <= limit <= MOST:
        raise CommandError(f"--limit {limit} is not between 1 and {MOST}", hint="drop what is dealt with, then list again")
    return run_to_end(_drop(target, drop, json) if drop else _list(target, pool, limit, json))


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


def _row(letter: DeadLetter) -> tuple[Any, ...]:
    return letter.position, letter.pool, letter.size, letter.reason, ascii(letter.data[:_SHOWN].decode(errors="replace"))


def _object(letter: DeadLetter) -> dict[str, Any]:
    said = {"position": letter.position, "pool": letter.pool, "reason": letter.reason, "size": letter.size}
    name, data = letter.shown
    return {**said, name: data}
