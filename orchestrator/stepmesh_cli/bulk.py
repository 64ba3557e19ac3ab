"""`stepmesh runs cancel|pause|resume|retry|delete`: one action on many runs, which are named or found by a filter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import App, Parameter

from stepmesh.bulk import Bulk, RunFilter
from stepmesh_cli import exits
from stepmesh_cli.connection import HERE, Target, connected, run_to_end
from stepmesh_cli.errors import CommandError
from stepmesh_cli.reporting import say
from stepmesh_cli.run_control import Version
from stepmesh_cli.runs import Status
from stepmesh_cli.submit import tags_of
from stepmesh_cli.tables import print_json

runs = App(name="runs", help="Act on many root runs at once: name them, or say which by a filter. Without a filter nothing is done.")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which runs, and whether it is meant."""

    status: Annotated[Status | None, Parameter(help="Only runs with this status.")] = None
    flow: Annotated[str | None, Parameter(help="Only runs of the flow with this name.")] = None
    tag: Annotated[tuple[str, ...], Parameter(help="NAME=VALUE that the runs have; repeatable, all of them.")] = ()
    yes: Annotated[bool, Parameter(help="Do it. Without it nothing is done to what a filter finds.")] = False
    dry_run: Annotated[bool, Parameter(help="Only list the runs.")] = False

    def filter(self) -> RunFilter:
        """Raises `CommandError` for a tag that is none."""
        return RunFilter(status=self.status, flow_name=self.flow, tags=tags_of(self.tag))


NOTHING = Selection()
AsJson = Annotated[bool, Parameter(help="Print one JSON object per run.")]


@runs.command
def cancel(*run: str, selection: Selection = NOTHING, target: Target = HERE, json: AsJson = False) -> int:
    """Stop them.

    Example: stepmesh runs cancel --status running --flow nightly --yes
    """
    return run_to_end(_act("cancel", run, selection, target, json))


@runs.command
def pause(*run: str, selection: Selection = NOTHING, target: Target = HERE, json: AsJson = False) -> int:
    """Start nothing new of them.

    Example: stepmesh runs pause --status running --tag team=search --yes
    """
    return run_to_end(_act("pause", run, selection, target, json))


@runs.command
def resume(*run: str, version: Version = None, selection: Selection = NOTHING, target: Target = HERE, json: AsJson = False) -> int:
    """Let them go on.

    Example: stepmesh runs resume --status paused --yes
    """
    return run_to_end(_act("resume", run, selection, target, json, version))


@runs.command
def retry(*run: str, selection: Selection = NOTHING, target: Target = HERE, json: AsJson = False) -> int:
    """Run again what failed in them, each in a new run.

    Example: stepmesh runs retry --status failed --flow nightly --yes
    """
    return run_to_end(_act("retry", run, selection, target, json))


@runs.command
def delete(*run: str, selection: Selection = NOTHING, target: Target = HERE, json: AsJson = False) -> int:
    """Remove them for good, with their results.

    Example: stepmesh runs delete --status cancelled --dry-run
    """
    return run_to_end(_act("delete", run, selection, target, json))


async def _act(action: str, named: tuple[str, ...], selection: Selection, target: Target, as_json: bool, version: str | None = None) -> int:
    async with connected(target) as client:
        bulk = Bulk(client.requests)
        wanted = selection.filter()
        found = await bulk.chosen(named or None, None if wanted.is_empty() else wanted)
        if selection.dry_run:
            for run in found:
                print_json({"run": run}) if as_json else print(run)
            say(f"{len(found)} runs; nothing was done")
            return exits.OK
        if not (named or selection.yes):
            raise CommandError(f"{action} {len(found)} runs? Nothing was done", code="SM-0280", hint="--dry-run lists them, --yes does it")
        refused = 0
        async for one in bulk.act(action, found, version=version):
            refused += not one.done
            if as_json:
                print_json({"run": one.run, "done": one.done, "code": one.code, "message": one.message, "new": one.new})
            else:
                print(f"{one.run}: {one.new or 'done'}" if one.done else f"{one.run}: {one.code} {one.message}")
    say(f"{action}: {len(found) - refused} done, {refused} refused")
    return exits.FAILED if refused else exits.OK
