"""What several test folders share."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from stepmesh_broker.nats import EmbeddedNats

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background: programs that tests start would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real nats-server for the whole session (one per xdist worker): use a namespace of your own in it.

    The one at `STEPMESH_TEST_NATS_URL` if that is set; else one that is started here from its wheel, run by an event loop in a
    thread of its own, because the loops of tests come and go.
    """
    given = os.environ.get("STEPMESH_TEST_NATS_URL")
    if given:
        yield given
        return
    server = EmbeddedNats(tmp_path_factory.mktemp("nats"))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(30)
    yield server.url
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
