"""The `stepmesh` program: which commands there are, and how they end.

A command is a function that returns its exit code (None is 0) and raises `StepmeshError` for a person to read; its module is
imported only when it is called, because most of a short command's time is imports. To add one, add a line to `COMMANDS`.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from cyclopts import App, CycloptsError, Parameter

from stepmesh_cli import exits
from stepmesh_cli.logs import quiet_clients
from stepmesh_cli.reporting import report, say


@dataclass(frozen=True, slots=True)
class Command:
    """`path`: `module:function`, or `module:app` for a group of commands. `line` and `example` are its help, before it is imported."""

    name: str
    path: str
    group: str
    line: str
    example: str

    @property
    def help(self) -> str:
        """What `--help` shows above the parameters; its first line is the list of commands'."""
        return f"{self.line}\n\nExample: {self.example}"


RUN, CHECK, OPERATE = "Run", "Check", "Operate"
COMMANDS = (
    Command(
        "run", "stepmesh_cli.run:run", RUN, "Run a flow here and print its result.", "stepmesh run flow.yaml --input-json '{\"n\": 1}'"
    ),
    Command("up", "stepmesh_cli.up:up", RUN, "Serve flows from this machine, all in one process.", "stepmesh up --worker steps.py"),
    Command(
        "server",
        "stepmesh_cli.server:server",
        RUN,
        "Serve gRPC and HTTP: a drop-in for stepflow-server.",
        "stepmesh server -p 7840 -c stepflow-config.yml",
    ),
    Command(
        "orchestrator",
        "stepmesh_cli.orchestrator:orchestrator",
        RUN,
        "Serve a share of a deployment's partitions.",
        "stepmesh orchestrator --broker nats://host:4222 --journal sqlite:/data/journal.db",
    ),
    Command(
        "gateway", "stepmesh_cli.gateway:gateway", RUN, "Serve gRPC and HTTP over a broker.", "stepmesh gateway --url nats://127.0.0.1:4222"
    ),
    Command(
        "projector",
        "stepmesh_cli.projector:projector",
        RUN,
        "Feed the read model from a journal in Kafka.",
        "stepmesh projector --broker kafka://127.0.0.1:9092 --store postgres://127.0.0.1/stepmesh",
    ),
    Command("worker", "stepmesh_cli.worker:worker", RUN, "Run the worker of a Python module.", "stepmesh worker steps.py --pool gpu"),
    Command("mcp", "stepmesh_cli.tools.command:mcp", RUN, "Serve flows as MCP tools.", "stepmesh mcp flows/ --config stepmesh.yaml"),
    Command(
        "submit", "stepmesh_cli.submit:submit", OPERATE, "Start a run on a deployment.", "stepmesh submit flow.yaml --input in.json --wait"
    ),
    Command("status", "stepmesh_cli.runs:status", OPERATE, "Show a run and its steps.", "stepmesh status RUN --item 3"),
    Command("list", "stepmesh_cli.runs:list_runs", OPERATE, "List runs, newest first.", "stepmesh list --status failed --limit 10"),
    Command("events", "stepmesh_cli.events:events", OPERATE, "Show what happened in a run.", "stepmesh events RUN --follow"),
    Command("cancel", "stepmesh_cli.runs:cancel", OPERATE, "Stop a run and its sub-runs.", 'stepmesh cancel RUN --reason "wrong input"'),
    Command("pause", "stepmesh_cli.run_control:pause", OPERATE, "Start nothing new of a run.", "stepmesh pause RUN --reason maintenance"),
    Command("resume", "stepmesh_cli.run_control:resume", OPERATE, "Let a run go on that is paused or blocked.", "stepmesh resume RUN"),
    Command("wake", "stepmesh_cli.run_control:wake", OPERATE, "End the sleeps of a run now.", "stepmesh wake RUN --step nap"),
    Command("retry", "stepmesh_cli.run_control:retry", OPERATE, "Run again what failed, in a new run.", "stepmesh retry RUN"),
    Command("fork", "stepmesh_cli.run_control:fork", OPERATE, "Run again from a step on, in a new run.", "stepmesh fork RUN --from STEP"),
    Command("runs", "stepmesh_cli.bulk:runs", OPERATE, "Act on many runs at once.", "stepmesh runs cancel --status running --flow nightly"),
    Command("delete", "stepmesh_cli.runs:delete", OPERATE, "Remove an ended run for good.", "stepmesh delete RUN"),
    Command("explain", "stepmesh_cli.runs:explain", OPERATE, "Say what a run waits for.", "stepmesh explain RUN"),
    Command("event", "stepmesh_cli.outside:event", OPERATE, "Send an event to runs that wait.", "stepmesh event send paid --key order-7"),
    Command("approvals", "stepmesh_cli.outside:approvals", OPERATE, "List approvals that wait.", "stepmesh approvals --flow order"),
    Command(
        "update", "stepmesh_cli.asking:update", OPERATE, "Ask a workflow for a change.", "stepmesh update RUN change --json-args '\"x\"'"
    ),
    Command("query", "stepmesh_cli.asking:query", OPERATE, "Ask a workflow how it stands.", "stepmesh query RUN state"),
    Command("approve", "stepmesh_cli.outside:approve", OPERATE, "Decide on an approval.", 'stepmesh approve TOKEN --comment "fine"'),
    Command(
        "schedule",
        "stepmesh_cli.schedule:schedule",
        OPERATE,
        "Start runs by the time.",
        'stepmesh schedule create report --flow report.yaml --cron "0 9 * * MON-FRI" --tz Europe/Berlin',
    ),
    Command("components", "stepmesh_cli.offers:components", OPERATE, "List what workers offer.", "stepmesh components --json"),
    Command("pools", "stepmesh_cli.pools:pools", OPERATE, "List pools, their depth and workers.", "stepmesh pools --watch 2"),
    Command("workers", "stepmesh_cli.workers:workers", OPERATE, "List workers and their builds.", "stepmesh workers --pool orders"),
    Command(
        "dead-letters",
        "stepmesh_cli.dead_letters:dead_letters",
        OPERATE,
        "List, send again or drop what nobody could take.",
        "stepmesh dead-letters --pool submit",
    ),
    Command(
        "topics", "stepmesh_cli.topics:topics", OPERATE, "Show or make the streams or topics of a deployment.", "stepmesh topics --apply"
    ),
    Command(
        "stats",
        "stepmesh_cli.stats:stats",
        OPERATE,
        "Show what a projector counted lately.",
        "stepmesh stats --store postgres://127.0.0.1/stepmesh --by flow --last 1h",
    ),
    Command("demo", "stepmesh_cli.demo.command:demo", CHECK, "A real batch, watched and reported.", "stepmesh demo"),
    Command("test", "stepmesh_cli.test:run_tests", CHECK, "Run the test cases of flows.", "stepmesh test flows/ --diff"),
    Command("validate", "stepmesh_cli.validate:validate", CHECK, "Check flow files.", "stepmesh validate flow.yaml --strict"),
    Command(
        "visualize", "stepmesh_cli.visualize:visualize", CHECK, "Draw a flow, or a run.", "stepmesh visualize flow.yaml --output flow.svg"
    ),
    Command("bench", "stepmesh_cli.bench.command:bench", CHECK, "Measure this machine.", "stepmesh bench chain --workers 2"),
    Command(
        "journal", "stepmesh_cli.journal:journal", OPERATE, "Check, read, repair a journal.", "stepmesh journal verify --data .stepmesh"
    ),
    Command("replay", "stepmesh_cli.replay:replay", OPERATE, "Show a run as it stood.", "stepmesh replay RUN --until 120 --data .stepmesh"),
    Command(
        "check-replay",
        "stepmesh_cli.check_replay:check_replay",
        CHECK,
        "Replay real histories with the code that is here.",
        "stepmesh check-replay orders.py --data .stepmesh --since 30d",
    ),
    Command("trace", "stepmesh_cli.trace:trace", OPERATE, "Show one item of a run as a waterfall.", "stepmesh trace RUN --item 3"),
    Command("doctor", "stepmesh_cli.doctor:doctor", OPERATE, "Check this machine and the deployment.", "stepmesh doctor --data .stepmesh"),
    Command("completion", "stepmesh_cli.completion:completion", OPERATE, "Shell completion.", "stepmesh completion install"),
)
GC_THRESHOLDS = (50_000, 25, 25)
"""Allocations before a collection, per generation: what imports make is no garbage."""
DEBUG = "STEPMESH_DEBUG"
STDIN = "/dev/stdin"
"""What `-` becomes before parsing."""


def build_app() -> App:
    """The program with all its commands, none of them imported."""
    app = App(
        name="stepmesh",
        help="Declarative flows, executed step by step by worker pools.",
        help_format="plaintext",
        help_epilogue="Every command has --help with an example. --debug shows tracebacks and logs.",
        version=_version,
        default_parameter=Parameter(negative=()),
        result_action="return_value",
    )
    for command in COMMANDS:
        app.command(command.path, name=command.name, group=command.group, help=command.help)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run one command, and say what went wrong if something did. Returns the exit code; never raises."""
    gc.set_threshold(*GC_THRESHOLDS)
    given, debug = _prepared(list(sys.argv[1:] if arguments is None else arguments))
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    if not debug:
        quiet_clients()
    try:
        code = build_app()(given, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except CycloptsError as problem:
        say(f"SM-0100 {str(problem).strip()}")
        known = [given[0]] if given and given[0] in {command.name for command in COMMANDS} else []
        say(f"  → {' '.join(['stepmesh', *known, '--help'])}")
        return exits.USAGE
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else exits.OK
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains when it flushes
        return exits.BROKEN_PIPE
    except Exception as problem:
        return report(problem, debug=debug)
    return code if isinstance(code, int) else exits.OK


def server_main() -> int:
    """`stepmesh-server`: `stepmesh server`, for launchers that want one path and pass the flags of stepflow-server."""
    return main(["server", *sys.argv[1:]])


def _prepared(arguments: list[str]) -> tuple[list[str], bool]:
    """`--debug` may stand anywhere before `--`, and so may `-`, which the parser would take for an option."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [STDIN if one == "-" else one for one in arguments[:end] if one != "--debug"]
    return kept + arguments[end:], len(kept) < end or bool(os.environ.get(DEBUG))


def _version() -> str:
    try:
        return version("stepmesh")
    except PackageNotFoundError:
        return "source"
