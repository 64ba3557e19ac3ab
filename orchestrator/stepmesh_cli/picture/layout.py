"""Where to put the nodes of a graph whose edges point forwards: layers from top to bottom, few crossings, short edges.

The steps of Sugiyama, Tagawa and Toda (1981): longest-path layers; a waypoint in each layer that an edge passes; order within a
layer by the mean place of the neighbours, swept down and up; then places along the layer that are nearest to the neighbours' mean
while order and gaps are kept, by pooling adjacent violators. Deterministic; work is bounded by `WAYPOINTS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

SWEEPS = 8
WAYPOINTS = 20_000
"""With more, edges go straight from end to end."""


@dataclass(frozen=True, slots=True)
class Placed:
    """`x[n]` is the centre of node n, from 0 at the left edge of the picture; `layer[n]` counts from 0. `routes[e]`: the (x, layer)
    that edge e passes, ends included."""

    x: list[float]
    layer: list[int]
    routes: list[list[tuple[float, int]]]
    width: float
    layers: int


@dataclass(slots=True)
class _Net:
    """Nodes and waypoints: `size` along the layer, neighbours above and below, members of each layer in order."""

    size: list[float]
    layer: list[int]
    above: list[list[int]] = field(default_factory=list[list[int]])
    below: list[list[int]] = field(default_factory=list[list[int]])
    rows: list[list[int]] = field(default_factory=list[list[int]])

    def add(self, size: float, layer: int) -> int:
        self.size.append(size)
        self.layer.append(layer)
        self.above.append([])
        self.below.append([])
        return len(self.size) - 1

    def join(self, upper: int, lower: int) -> None:
        self.above[lower].append(upper)
        self.below[upper].append(lower)


def place(sizes: Sequence[float], edges: Sequence[tuple[int, int]], gap: float) -> Placed:
    """`sizes`: width of each node; `edges`: (source, target) with source < target; `gap`: least space between neighbours."""
    layer = _layers(len(sizes), edges)
    net = _Net(list(sizes), layer.copy(), [[] for _ in sizes], [[] for _ in sizes])
    chains = _chains(net, layer, edges)
    net.rows = [[] for _ in range(max(layer, default=0) + 1)]
    for index, row in enumerate(net.layer):
        net.rows[row].append(index)
    _order(net)
    x = _places(net, gap)
    left = min((x[n] - net.size[n] / 2 for n in range(len(x))), default=0)
    x = [one - left for one in x]
    width = max((x[n] + net.size[n] / 2 for n in range(len(x))), default=0)
    routes = [[(x[n], net.layer[n]) for n in chain] for chain in chains]
    return Placed(x[: len(sizes)], layer, routes, width, len(net.rows))


def _layers(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    layer = [0] * count
    for source, target in sorted(edges):
        layer[target] = max(layer[target], layer[source] + 1)
    if count:
        layer[-1] = max(layer)
    return layer


def _chains(net: _Net, layer: list[int], edges: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The waypoints of each edge. Edges of one source share theirs."""
    spans = sum(max(0, layer[target] - layer[source] - 1) for source, target in edges)
    shared: dict[tuple[int, int], int] = {}
    chains: list[list[int]] = []
    for source, target in edges:
        chain = [source]
        for row in range(layer[source] + 1, layer[target]) if spans <= WAYPOINTS else ():
            if (source, row) not in shared:
                shared[source, row] = net.add(0, row)
                net.join(chain[-1], shared[source, row])
            chain.append(shared[source, row])
        net.join(chain[-1], target)
        chains.append([*chain, target])
    return chains


def _order(net: _Net) -> None:
    """Sort each layer by the mean place of the neighbours in the layer before, downwards and upwards in turn."""
    at = [0.0] * len(net.size)
    for row in net.rows:
        for index, node in enumerate(row):
            at[node] = index
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        neighbours = net.above if down else net.below
        for row in net.rows if down else reversed(net.rows):
            means = {node: _mean([at[one] for one in neighbours[node]], at[node]) for node in row}
            row.sort(key=means.__getitem__)
            for index, node in enumerate(row):
                at[node] = index


def _places(net: _Net, gap: float) -> list[float]:
    x = [0.0] * len(net.size)
    for row in net.rows:
        edge = 0.0
        for node in row:
            x[node] = edge + net.size[node] / 2
            edge += net.size[node] + gap
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        neighbours = net.above if down else net.below
        for row in net.rows if down else reversed(net.rows):
            wanted = [_mean([x[one] for one in neighbours[node]], x[node]) for node in row]
            for node, found in zip(row, _apart(wanted, [net.size[node] for node in row], gap), strict=True):
                x[node] = found
    return x


def _apart(wanted: list[float], sizes: list[float], gap: float) -> list[float]:
    """The places nearest to those wanted (least squares) that keep order and gaps: isotonic regression of what is left of each."""
    offsets: list[float] = []
    total = 0.0
    for index, size in enumerate(sizes):
        total += 0 if index == 0 else (sizes[index - 1] + size) / 2 + gap
        offsets.append(total)
    blocks: list[tuple[float, int]] = []
    for want, offset in zip(wanted, offsets, strict=True):
        mean, count = want - offset, 1
        while blocks and blocks[-1][0] > mean:
            other, many = blocks.pop()
            mean, count = (mean * count + other * many) / (count + many), count + many
        blocks.append((mean, count))
    spread = [mean for mean, count in blocks for _ in range(count)]
    return [mean + offset for mean, offset in zip(spread, offsets, strict=True)]


def _mean(values: list[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
