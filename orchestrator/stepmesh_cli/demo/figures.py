"""The report's plots: plain data in, one SVG text each out, with the text left as text so that it takes the page's font.

Points carry a tooltip. Deterministic: no dates, fixed ids. Must not know where the data came from.
"""

from __future__ import annotations

import html
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import hypot, log10
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, FAINT, GRID = "#1f2a37", "#6b7785", "#e6e9ee"
OTHER = "#c3cad3"
PALETTE = ("#2f6fde", "#e4702e", "#1f9d7a", "#b4459b", "#d9a400", "#7a5cd6", "#d2405c", "#3aa5c9")
POOLS = {"cpu": "#2f6fde", "accel": "#e4702e", "builtin": "#1f9d7a"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "stepmesh",
    "font.family": "sans-serif",
    "font.size": 10.5,
    "axes.edgecolor": OTHER,
    "axes.labelcolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "legend.frameon": False,
}
mpl.rcParams.update(_STYLE)
_USE = re.compile(r"<use ([^>]*)/>")


def colours(packages: Iterable[str]) -> dict[str, str]:
    """The most frequent packages get a colour of their own, all others share one."""
    common = [name for name, _ in Counter(packages).most_common(len(PALETTE))]
    return dict(zip(common, PALETTE, strict=False))


def size_and_complexity(files: Sequence[Mapping[str, Any]], paint: Mapping[str, str]) -> str:
    """Lines of code against McCabe complexity, one point per file, both logarithmic; the furthest from the trend are named."""
    figure, axes = _canvas(5.8, 4.3)
    xs = [max(1, file["size"]["code"]) for file in files]
    ys = [1 + file["outline"]["decisions"] for file in files]
    _points(
        axes, xs, ys, files, paint, [f"{f['module']}: {x} lines of code, complexity {y}" for f, x, y in zip(files, xs, ys, strict=True)]
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("lines of code")
    axes.set_ylabel("complexity of the file")
    for index in _standouts(xs, ys):
        axes.annotate(
            _short(files[index]["module"]), (xs[index], ys[index]), (-7, 0), textcoords="offset points", ha="right", va="center",
            fontsize=9, path_effects=_halo(),
        )  # fmt: skip
    return _svg(figure)


def _standouts(xs: Sequence[float], ys: Sequence[float]) -> list[int]:
    """The most complex, the densest and the flattest of those that are not small, without labels that would touch (in decades)."""
    places = range(len(xs))
    top = sorted(places, key=lambda index: (-ys[index], index))[:6]
    dense = sorted((i for i in places if xs[i] >= 50), key=lambda index: (-ys[index] / xs[index], index))[:4]
    flat = sorted((i for i in places if xs[i] >= 200), key=lambda index: (ys[index] / xs[index], index))[:3]
    chosen: list[int] = []
    for index in (*top, *dense, *flat):
        if all(abs(log10(ys[index] / ys[other])) > 0.16 for other in chosen):
            chosen.append(index)
    return chosen


def likeness_map(files: Sequence[Mapping[str, Any]], points: Sequence[Sequence[float]], paint: Mapping[str, str]) -> str:
    """Files by what their identifiers have in common; packages with a colour are named at the median of their files."""
    figure, axes = _canvas(5.8, 4.3)
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    _points(axes, xs, ys, files, paint, [f"{file['module']} ({file['package']})" for file in files])
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    for package, colour in paint.items():
        own = [point for file, point in zip(files, points, strict=True) if file["package"] == package]
        if len(own) > 2 and not package.startswith("("):
            x, y = _densest(own)
            axes.text(x, y, package, color=colour, fontsize=11, fontweight="bold", ha="center", va="center", path_effects=_halo())
    return _svg(figure)


def coverage(rows: Sequence[tuple[str, int, float]]) -> str:
    """Share of public definitions with a docstring, by package: (name, definitions, share 0..1), best first. "" for none."""
    if not rows:
        return ""
    figure, axes = _canvas(5.8, 0.6 + 0.27 * len(rows))
    places = range(len(rows))
    axes.barh(places, [1.0] * len(rows), color="#eef1f5", height=0.66)
    axes.barh(places, [share for _, _, share in rows], color=[_traffic(share) for _, _, share in rows], height=0.66)
    for place, (_, count, share) in zip(places, rows, strict=True):
        axes.text(1.015, place, f"{share:.0%} of {count}", va="center", fontsize=9, color=FAINT)
    axes.set_yticks(places, [name for name, _, _ in rows])
    axes.set_xlim(0, 1.22)
    axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    return _svg(figure)


def throughput(timeline: Mapping[str, Any]) -> str:
    """Executions per second that ended, by pool, stacked over the time since the first one began; what hit the run is marked."""
    figure, axes = _canvas(11.9, 2.5)
    width = timeline["bin_s"]
    pools = timeline["pools"]
    length = max((len(counts) for counts in pools.values()), default=0)
    xs = [index * width for index in range(length + 1)]
    rates = [[count / width for count in counts] + [0.0] for counts in pools.values()]
    if rates:
        axes.stackplot(
            xs, rates, labels=list(pools), colors=[POOLS.get(pool, OTHER) for pool in pools], step="post", alpha=0.85, linewidth=0
        )
        axes.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=3, labelcolor=INK)
        axes.set_xlim(0, xs[-1])
    for at_s, label in timeline["marks"]:
        axes.axvline(at_s, color=PALETTE[6], linewidth=1)
        axes.annotate(
            label, (at_s, 1), (3, -2), xycoords=("data", "axes fraction"), textcoords="offset points", rotation=90, va="top", fontsize=8,
            color=PALETTE[6], bbox={"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip
    axes.set_xlabel("seconds since the first step began")
    axes.set_ylabel("steps per second")
    axes.grid(visible=False, axis="x")
    return _svg(figure)


def slowest(rows: Sequence[tuple[str, float]]) -> str:
    """Work per file, all steps and functions together: (name, ms), longest first. "" for none."""
    if not rows:
        return ""
    figure, axes = _canvas(5.8, 0.6 + 0.27 * len(rows))
    places = range(len(rows))
    axes.barh(places, [ms for _, ms in rows], color=PALETTE[0], height=0.66)
    for place, (_, ms) in zip(places, rows, strict=True):
        label = f"{ms:,.0f} ms".replace(",", "\u202f")
        axes.annotate(label, (ms, place), (5, 0), textcoords="offset points", va="center", fontsize=9, color=FAINT)
    axes.set_yticks(places, [name for name, _ in rows])
    axes.set_xlim(0, max((ms for _, ms in rows), default=1) * 1.18)
    axes.set_xticks([])
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    return _svg(figure)


def complexity_of_functions(values: Sequence[int]) -> str:
    """How many functions have which complexity; 20 and more share a bar. McCabe's own limit of 10 is marked. "" for none."""
    if not values:
        return ""
    figure, axes = _canvas(5.8, 3.1)
    most = 20
    counts = Counter(min(value, most) for value in values)
    places = range(1, most + 1)
    axes.bar(places, [counts[place] for place in places], color=[PALETTE[0] if place <= 10 else PALETTE[1] for place in places], width=0.8)
    axes.axvline(10.5, color=FAINT, linewidth=1, linestyle=(0, (3, 3)))
    above = sum(value > 10 for value in values) / (len(values) or 1)
    axes.text(10.8, max(counts.values(), default=1) * 0.9, f"{above:.1%} are above 10", color=PALETTE[1], fontsize=10.5)
    axes.set_xticks([1, 5, 10, 15, 20], ["1", "5", "10", "15", "20 +"])
    axes.set_xlabel("complexity of the function")
    axes.set_ylabel("functions")
    axes.grid(visible=False, axis="x")
    return _svg(figure)


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _points(
    axes: Axes, xs: Sequence[float], ys: Sequence[float], files: Sequence[Mapping[str, Any]], paint: Mapping[str, str], tips: Sequence[str]
) -> None:
    """One collection, those without a colour below, each point with its tooltip (put in by `_svg`)."""
    order = sorted(range(len(files)), key=lambda index: files[index]["package"] in paint)
    drawn = [paint.get(files[index]["package"], OTHER) for index in order]
    dots = axes.scatter([xs[i] for i in order], [ys[i] for i in order], s=26, c=drawn, alpha=0.8, linewidths=0.5, edgecolors="white")
    dots.set_gid("points")
    axes.tips = [tips[index] for index in order]  # type: ignore[attr-defined]  # rides along to _svg


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    tips = [tip for axes in figure.axes for tip in getattr(axes, "tips", ())]
    return _with_tips(text, tips) if tips else text


def _with_tips(svg: str, tips: Sequence[str]) -> str:
    before, mark, after = svg.partition('<g id="points">')
    rest = iter(tips)

    def titled(found: re.Match[str]) -> str:
        tip = next(rest, None)
        return found[0] if tip is None else f"<use {found[1]}><title>{html.escape(tip)}</title></use>"

    return before + mark + _USE.sub(titled, after, count=len(tips))


def _short(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:22]} …"


def _densest(points: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The point that is nearest to most of the others."""
    x, y = min(points, key=lambda one: sum(hypot(one[0] - other[0], one[1] - other[1]) ** 0.5 for other in points))
    return x, y + 0.06


def _traffic(share: float) -> str:
    return PALETTE[2] if share >= 0.75 else PALETTE[4] if share >= 0.4 else PALETTE[1]


def _halo() -> list[Any]:
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=3.5, foreground="white")]
