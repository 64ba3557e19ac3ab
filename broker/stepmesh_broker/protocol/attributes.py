"""Every name that telemetry uses, and what it means: the one mapping file. docs/telemetry.md shows these tables; a test compares them.

Names of OpenTelemetry's semantic conventions (general, messaging, error; 1.37) where there is one, `stepmesh.*` for the rest.
Invariant: payloads, variables and blobs never become attributes.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

SCOPE = "stepmesh"
"""Name of the instrumentation scope."""

SERVICE_NAME = "service.name"
SERVICE_VERSION = "service.version"
SERVICE_INSTANCE = "service.instance.id"

NAMESPACE = "stepmesh.namespace"
PARTITION = "stepmesh.partition"
RUN_ID = "stepmesh.run.id"
ROOT_RUN_ID = "stepmesh.run.root_id"
PARENT_RUN_ID = "stepmesh.run.parent_id"
RUN_STATUS = "stepmesh.run.status"
RUN_ITEMS = "stepmesh.run.items"
RUN_EXISTING = "stepmesh.run.existing"
FLOW_ID = "stepmesh.flow.id"
FLOW_NAME = "stepmesh.flow.name"
ITEM = "stepmesh.item"
STEP_INDEX = "stepmesh.step.index"
STEP_ID = "stepmesh.step.id"
COMPONENT = "stepmesh.component"
ATTEMPT = "stepmesh.attempt"
OUTCOME = "stepmesh.outcome"
KIND = "stepmesh.kind"
WAIT = "stepmesh.wait"
LINK = "stepmesh.link"
POOL = "stepmesh.pool"
TASK_STATE = "stepmesh.task.state"
RETRY_KIND = "stepmesh.retry.kind"
QUANTILE = "stepmesh.quantile"
TOKEN_TYPE = "stepmesh.token.type"
CURRENCY = "stepmesh.currency"
WORKER = "messaging.client.id"
ERROR_TYPE = "error.type"
MESSAGING_SYSTEM = "messaging.system"
DESTINATION = "messaging.destination.name"
CONSUMER_GROUP = "messaging.consumer.group.name"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
MESSAGE_COUNT = "messaging.batch.message_count"

SYSTEM = "stepmesh"
"""Value of `messaging.system`: pools hide which broker carries them."""

ATTRIBUTES: dict[str, str] = {
    SERVICE_NAME: "`stepmesh-orchestrator`, `-worker`, `-client` or `-projector`, unless OTEL_SERVICE_NAME names it",
    SERVICE_VERSION: "version of the installed package",
    SERVICE_INSTANCE: "owner name of the orchestrator process",
    NAMESPACE: "tenant",
    PARTITION: "partition of the run's root",
    RUN_ID: "run id (UUIDv7)",
    ROOT_RUN_ID: "id of the run at the top of the tree",
    PARENT_RUN_ID: "id of the run whose step started this one",
    RUN_STATUS: "`completed`, `failed` or `cancelled`",
    RUN_ITEMS: "number of items of the run",
    RUN_EXISTING: "the submission found a run with its key",
    FLOW_ID: "SHA-256 of the flow document",
    FLOW_NAME: "name of the flow",
    ITEM: "index of the item, from 0",
    STEP_INDEX: "index of the step in its flow, from 0",
    STEP_ID: "id of the step",
    COMPONENT: "component of the step: as the flow writes it in orchestrator spans, as the worker names it elsewhere",
    ATTEMPT: "attempt of the step, from 1",
    OUTCOME: "`success`, `failed`, `retrying`, `defaulted`, `cancelled` or `dropped` (nobody wants the result)",
    KIND: "kind of span: `submit`, `run`, `item`, `attempt`, `queue` or `execute`",
    WAIT: "what an attempt without a pool waited for: `sleep`, `sub_run`, or `outside` (an event, a decision)",
    LINK: "on a link: `previous_attempt`, `parent_run` or `existing_run`",
    POOL: "pool of the task",
    TASK_STATE: "`queued` (with the broker, or begun less than a lease ago) or `claimed` (a worker holds its lease)",
    RETRY_KIND: "`transport` or `component`: the budget that paid for the retry",
    QUANTILE: "`0.5`, `0.95` or `0.99`",
    TOKEN_TYPE: "`prompt`, `completion` or `total`",
    CURRENCY: "three capital letters, empty for a cost whose currency was not named",
    WORKER: "worker id",
    ERROR_TYPE: "name of the failure's code, e.g. `TIMEOUT`; the exception's type for a submission",
    MESSAGING_SYSTEM: "`stepmesh`",
    DESTINATION: "pool",
    CONSUMER_GROUP: "pool (a pool is its own consumer group)",
    OPERATION_NAME: "`submit`, `queue` or `execute`",
    OPERATION_TYPE: "`send`, `receive` or `process`",
    MESSAGE_COUNT: "items of a submission",
}


class Metric(NamedTuple):
    """A metric. `unit` in UCUM; `by`: names of its attributes."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    by: tuple[str, ...]
    meaning: str


POOL_TASKS = Metric("stepmesh.pool.tasks", "gauge", "{task}", (POOL, PARTITION, TASK_STATE), "tasks dispatched and without a result")
POOL_WANTED = Metric("stepmesh.pool.wanted", "gauge", "{task}", (POOL, PARTITION), "what a pool has to do: queued and claimed tasks")
POOL_OLDEST = Metric("stepmesh.pool.oldest_task", "gauge", "s", (POOL, PARTITION), "age of the oldest task without a result")
QUEUE_WAIT = Metric("stepmesh.task.queue_wait", "histogram", "s", (POOL, COMPONENT), "from dispatch to the component's first line")
TASK_DURATION = Metric("stepmesh.task.duration", "histogram", "s", (POOL, COMPONENT), "execution of an attempt, as its worker measured it")
TASK_RETRIES = Metric(
    "stepmesh.task.retries", "counter", "{retry}", (POOL, RETRY_KIND, ERROR_TYPE), "attempts that failed and are tried again"
)
TASK_FAILURES = Metric(
    "stepmesh.task.failures", "counter", "{task}", (POOL, ERROR_TYPE), "steps that failed for good or took their default"
)
TASK_PARKED = Metric("stepmesh.task.parked", "counter", "{task}", (POOL,), "tasks put into the dead-letter topic")
TASKS_PUBLISHED = Metric("stepmesh.task.published", "counter", "{task}", (PARTITION,), "tasks handed to the broker")
REDISPATCHED = Metric("stepmesh.task.redispatched", "counter", "{task}", (PARTITION,), "tasks handed to the broker once more")
STALE_RESULTS = Metric("stepmesh.result.stale", "counter", "{result}", (PARTITION,), "results that came twice, late or for nothing known")
MALFORMED = Metric("stepmesh.message.malformed", "counter", "{message}", (PARTITION,), "inbox messages that could not be read")
QUARANTINED = Metric("stepmesh.decision.quarantined", "counter", "{decision}", (PARTITION,), "decisions that failed (SM-5900)")
TURN_EVENTS = Metric("stepmesh.turn.events", "histogram", "{event}", (PARTITION,), "events of a turn")
TURN_BYTES = Metric("stepmesh.turn.size", "histogram", "By", (PARTITION,), "journal frame of a turn")
JOURNAL_APPEND = Metric("stepmesh.journal.append", "histogram", "s", (PARTITION,), "time until a turn's frame is durable")
RUNS_LIVE = Metric("stepmesh.run.live", "gauge", "{run}", (PARTITION,), "runs that have not ended, sub-runs included")
RUNS_ENDED = Metric("stepmesh.run.ended", "counter", "{run}", (PARTITION, RUN_STATUS), "runs that ended, sub-runs included")
OUTBOX_FRAMES = Metric("stepmesh.outbox.frames", "gauge", "{frame}", (PARTITION,), "task frames that wait to be published")
INBOX_MESSAGES = Metric("stepmesh.inbox.messages", "gauge", "{message}", (PARTITION,), "messages that wait for the next turn")
PROJECTION_ROWS = Metric("stepmesh.projection.rows", "gauge", "{row}", (PARTITION,), "rows that wait to be written to the read model")
POOL_WAITING = Metric(
    "stepmesh.pool.waiting", "gauge", "{task}", (POOL, NAMESPACE, PARTITION), "tasks that are ready and wait for a place of their pool"
)
BREAKERS_OPEN = Metric("stepmesh.breaker.open", "gauge", "{component}", (PARTITION,), "components that a breaker leaves alone")
PROJECTOR_LAG = Metric(
    "stepmesh.projector.lag", "gauge", "{record}", (PARTITION,), "records of the journal's topic that are still to be read"
)
PROJECTOR_FRAMES = Metric("stepmesh.projector.frames", "counter", "{frame}", (PARTITION,), "frames of the journal that were read")
PROJECTOR_ROWS = Metric("stepmesh.projector.rows", "counter", "{row}", (PARTITION,), "rows of the read model that were made")
WINDOW_TASKS = Metric("stepmesh.window.tasks", "gauge", "{task}/s", (NAMESPACE, POOL, OUTCOME), "attempts that ended, per second")
WINDOW_TASK_LATENCY = Metric(
    "stepmesh.window.task_latency", "gauge", "s", (NAMESPACE, POOL, QUANTILE), "from dispatch to the outcome in the journal"
)
WINDOW_TASK_WAIT = Metric(
    "stepmesh.window.task_wait", "gauge", "s", (NAMESPACE, POOL, QUANTILE), "from when a step could begin to its dispatch"
)
WINDOW_TASK_FAILURES = Metric("stepmesh.window.task_failures", "gauge", "1", (NAMESPACE, POOL), "share of steps that failed")
WINDOW_RUNS = Metric("stepmesh.window.runs", "gauge", "{run}/s", (NAMESPACE, FLOW_NAME, RUN_STATUS), "runs that ended, per second")
WINDOW_RUN_LATENCY = Metric("stepmesh.window.run_latency", "gauge", "s", (NAMESPACE, FLOW_NAME, QUANTILE), "from creation to end of a run")
WINDOW_RUN_FAILURES = Metric("stepmesh.window.run_failures", "gauge", "1", (NAMESPACE, FLOW_NAME), "share of runs that failed")
WINDOW_TASK_TOKENS = Metric("stepmesh.window.task_tokens", "gauge", "{token}/s", (NAMESPACE, POOL, TOKEN_TYPE), "tokens that tasks told of")
WINDOW_TASK_COST = Metric("stepmesh.window.task_cost", "gauge", "{cost}/s", (NAMESPACE, POOL, CURRENCY), "cost that tasks told of")
WINDOW_RUN_TOKENS = Metric("stepmesh.window.run_tokens", "gauge", "{token}/s", (NAMESPACE, FLOW_NAME, TOKEN_TYPE), "tokens, by flow")
WINDOW_RUN_COST = Metric("stepmesh.window.run_cost", "gauge", "{cost}/s", (NAMESPACE, FLOW_NAME, CURRENCY), "cost, by flow")

OF_PROJECTORS: tuple[Metric, ...] = (
    PROJECTOR_LAG, PROJECTOR_FRAMES, PROJECTOR_ROWS, WINDOW_TASKS, WINDOW_TASK_LATENCY, WINDOW_TASK_WAIT, WINDOW_TASK_FAILURES, WINDOW_RUNS,
    WINDOW_RUN_LATENCY, WINDOW_RUN_FAILURES, WINDOW_TASK_TOKENS, WINDOW_TASK_COST, WINDOW_RUN_TOKENS, WINDOW_RUN_COST,
)  # fmt: skip
METRICS: tuple[Metric, ...] = (
    POOL_TASKS, POOL_WANTED, POOL_OLDEST, QUEUE_WAIT, TASK_DURATION, TASK_RETRIES, TASK_FAILURES, TASK_PARKED, TASKS_PUBLISHED,
    REDISPATCHED, STALE_RESULTS, MALFORMED, QUARANTINED, TURN_EVENTS, TURN_BYTES, JOURNAL_APPEND, RUNS_LIVE, RUNS_ENDED, OUTBOX_FRAMES,
    INBOX_MESSAGES, PROJECTION_ROWS, POOL_WAITING, BREAKERS_OPEN, *OF_PROJECTORS,
)  # fmt: skip
