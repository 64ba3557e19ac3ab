"""The worker that users write: components, a pool, and `serve()`.

Invariant: settings are fixed once a run begins; one worker runs over one connection at a time. The work itself is in session.py.
"""

from __future__ import annotations

import math
import os
import platform
import secrets
from contextlib import AbstractAsyncContextManager, nullcontext

from stepmesh.broker_link import BrokerLink
from stepmesh.component import Components
from stepmesh.durable.live_bodies import MOST_BODIES, MOST_BYTES
from stepmesh.errors import StepmeshError
from stepmesh.execution import Limits
from stepmesh.instrument import Instrument
from stepmesh.leases import Timing
from stepmesh.requests import Requests
from stepmesh.serving import serve
from stepmesh.session import Identity, Link, Session
from stepmesh_broker.ports import Broker, TaskGateway
from stepmesh_broker.protocol.ids import Namespace, Pool, WorkerId
from stepmesh_broker.protocol.subjects import checked_name


class Worker(Components):
    """Offers components to a pool.

    `pool`: queue whose tasks it takes; default STEPMESH_POOL, or `default`. `namespace`: default STEPMESH_NAMESPACE, or
    `default`. `concurrency`: attempts under way at once (and threads for sync components).
    `exclusive`: claim every task before it starts, for GPUs or paid calls. `name`: prefix of its id; default is the host's name.
    `payload_limit_bytes`: largest output. `cancel_grace_s`: seconds after which a task that ignores its stop signal is
    reported. `drain_grace_s`: seconds from `stop()` until it is gone. `live_functions`: durable functions whose bodies stay alive while
    they wait, so that they need not be replayed when they go on; default STEPMESH_LIVE_FUNCTIONS, or 1000; 0 = replay always.
    `live_bytes`: of their histories together; those that wait longest are put away first.
    """

    def __init__(
        self,
        pool: str | None = None,
        *,
        concurrency: int = 16,
        exclusive: bool = False,
        name: str | None = None,
        namespace: str | None = None,
        payload_limit_bytes: int = 8 * 1024 * 1024,
        cancel_grace_s: float = 5.0,
        drain_grace_s: float = 30.0,
        instrument: Instrument | None = None,
        timing: Timing | None = None,
        live_functions: int | None = None,
        live_bytes: int = MOST_BYTES,
    ) -> None:
        super().__init__()
        if concurrency < 1:
            raise StepmeshError(f"concurrency {concurrency} is below 1", code="SM-6104", hint="a worker runs at least one task at a time")
        self.pool = checked_name("pool", os.environ.get("STEPMESH_POOL", "default") if pool is None else pool)
        self.namespace = checked_name("namespace", os.environ.get("STEPMESH_NAMESPACE", "default") if namespace is None else namespace)
        self.concurrency = concurrency
        self.exclusive = exclusive
        self.name = name
        self.payload_limit_bytes = payload_limit_bytes
        self.cancel_grace_s = cancel_grace_s
        self.drain_grace_s = drain_grace_s
        self.instrument = instrument
        self.timing = timing or Timing()
        self.live_functions = _live_functions(live_functions)
        self.live_bytes = live_bytes
        self.stuck = 0
        """Attempts of the last run that went on although they were told to stop."""
        self._session: Session | None = None
        self._stops = 0

    async def run(self, connection: Broker | TaskGateway) -> None:
        """Work over a connected broker or gateway until `stop()`; then drain. Raises `BrokerUnavailable` when it cannot begin."""
        if self._session is not None:
            raise StepmeshError(f"worker of pool {self.pool} runs already", code="SM-6105", hint="make another Worker")
        payload = min(self.payload_limit_bytes, connection.max_message_bytes - 4096)
        limits = Limits(self.concurrency, payload, self.cancel_grace_s, self.live_functions, self.live_bytes)
        link = _link(connection, self._identity(), self.timing)
        # What a component asks for outlives every outage: its attempt ends by its own time limit, a cancel or the worker's end.
        requests = Requests(connection, Namespace(self.namespace), math.inf, waits_for_space=True)
        session = self._session = Session(link, self, limits, requests, self.instrument)
        self._tell(session)
        try:
            async with self.lifespan():
                await session.run(self.drain_grace_s)
        finally:
            self.stuck, self._session, self._stops = session.stuck, None, 0

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Entered before the first task is taken, left when the last one ended: override it for what the components need."""
        return nullcontext()

    def serve(self, url: str | None = None) -> None:
        """Run as this process: connect, work until SIGTERM or SIGINT, drain. `url`: default STEPMESH_URL, or the nearest `stepmesh up`.

        Raises `EndpointNotFound`, `BrokerUnavailable`.
        """
        serve(self, url)

    def stop(self) -> None:
        """Drain: no new task, finish or hand back what runs, then `run` returns. A second call does not wait for running tasks."""
        self._stops += 1
        if self._session is not None:
            self._tell(self._session)

    def announce(self) -> None:
        """Tell the deployment now what this worker offers; it hears of it every few seconds anyway. For components that come and go."""
        if self._session is not None:
            self._session.announce()

    def _tell(self, session: Session) -> None:
        if self._stops == 1:
            session.stop()
        elif self._stops > 1:
            session.hurry()

    def _identity(self) -> Identity:
        prefix = self.name or platform.node() or "worker"
        worker = WorkerId(f"{prefix}-{os.getpid()}-{secrets.token_hex(3)}")
        return Identity(worker, Namespace(self.namespace), Pool(self.pool), _version(), self.exclusive)


def _link(connection: Broker | TaskGateway, identity: Identity, timing: Timing) -> Link:
    if not isinstance(connection, TaskGateway):
        return BrokerLink(connection, identity, timing)
    from stepmesh.gateway_link import GatewayLink  # late: it takes protobuf, which a worker on the broker need not have

    return GatewayLink(connection, identity)


def _live_functions(given: int | None) -> int:
    said = os.environ.get("STEPMESH_LIVE_FUNCTIONS", str(MOST_BODIES)) if given is None else str(given)
    if not said.isdecimal():
        hint = "a whole number; 0 = keep none alive: each activation replays"
        raise StepmeshError(f"{said!r} is no number of functions that are kept alive", code="SM-1024", hint=hint)
    return int(said)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # late: slow to import, and a client never needs it

    try:
        return version("stepmesh")
    except PackageNotFoundError:
        return "source"
