"""The components of a deployment as Stepflow lists them: by plugin, with what could not be listed.

A pool of which no worker was heard is told as such, beside the components of all others; nobody waits for it.
"""

from __future__ import annotations

from collections.abc import Iterator

from stepmesh_broker.protocol.api import Components, Queues


def plugins(queues: Queues) -> dict[str, str]:
    """Pool → name of the plugin that it belongs to."""
    return {queue.pool: queue.plugin for queue in queues.queues}


def silent(components: Components, plugin_of: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Plugin and reason, for each pool whose components are not known."""
    for pool in components.silent:
        yield plugin_of.get(pool, pool), f"no worker of pool {pool} was heard yet: start one, or wait for it"
