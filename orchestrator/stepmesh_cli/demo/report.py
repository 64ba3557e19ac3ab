"""The reduce step's result: one HTML file that needs nothing beside itself. Numbers come from the survey, the run and the layout.

Invariant: every text from the surveyed files is escaped. It must not compute what a plot or table does not show.
"""

from __future__ import annotations

import html
import string
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from stepmesh_cli.demo import figures

_TEMPLATE = "report.html"
_PACKAGES = 18
_SLOWEST = 16


def write_report(survey: Mapping[str, Any], run: Mapping[str, Any], layout: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Write it whole or not at all. Returns `{path, bytes, files, plots}`."""
    text = render(survey, run, layout)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
    return {"path": str(path), "bytes": len(text.encode()), "files": len(survey["files"]), "plots": text.count("<svg")}


def render(survey: Mapping[str, Any], run: Mapping[str, Any], layout: Mapping[str, Any]) -> str:
    """The page."""
    files: list[dict[str, Any]] = survey["files"]
    template = string.Template(resources("stepmesh_cli.demo").joinpath(_TEMPLATE).read_text(encoding="utf-8"))
    return template.substitute(
        {**_words(files, run), **_code_plots(files, layout), **_run_plots(files, run), **_tables(files, run, layout)}
    )


# --- words and key figures --------------------------------------------------------------------------------------


def _words(files: Sequence[Mapping[str, Any]], run: Mapping[str, Any]) -> dict[str, str]:
    broken = [file for file in files if not file["outline"]["parsed"]]
    about = run["about"]
    key = [
        (_count(len(files)), "files surveyed"),
        (_count(sum(file["size"]["code"] for file in files)), "lines of code"),
        (_count(len(_functions(files))), "functions measured"),
        (f"{run['seconds']:.1f} s", "from first to last step"),
        (_count(round(run["executions"] / (run["seconds"] or 1))), "steps per second"),
        (_count(len(run["retries"])), "retries, none lost"),
    ]
    return {
        "title": html.escape(f"A survey of Python {about['python']}'s standard library"),
        "lead": html.escape(
            f"{len(files)} source files went as one batch through a Stepmesh flow: parsed, measured and read for docstrings on pool “cpu”, "
            f"turned into vectors on pool “accel”, with a nested map over {len(_functions(files))} functions. This page is the result of a "
            "second flow, the reduce."
        ),
        "figures": "".join(f'<div class="figure"><b>{number}</b><span>{html.escape(what)}</span></div>' for number, what in key),
        "broken_note": html.escape(
            f"{len(broken)} of {len(files)}: their parse step fails, onError gives a default with the error in it, and their items go on. "
            + about["broken"]
        ),
        "throughput_note": html.escape(
            f"{_count(run['executions'])} step executions in {run['seconds']:.1f} s; {_count(run['events'])} events journaled in "
            f"{_count(run['frames'])} fsynced frames; {_count(run['sub_runs'])} sub-runs with {_count(run['sub_items'])} items."
        ),
        "retries_note": html.escape(about["retries"]),
        "footer": html.escape(
            f"Stepmesh {about['version']} · {about['broker']} · {about['journal']} · {about['machine']} · seed {about['seed']} "
            f"· run {run['run']}"
        ),
    }


# --- plots ------------------------------------------------------------------------------------------------------


def _code_plots(files: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]) -> dict[str, str]:
    paint = figures.colours(file["package"] for file in files)
    parsed = [file for file in files if file["outline"]["parsed"]]
    rates = sorted((1 + file["outline"]["decisions"]) / max(1, file["size"]["code"]) for file in parsed)
    rows = _coverage(parsed)
    share = sum(round(share * count) for _, count, share in rows) / (sum(count for _, count, _ in rows) or 1)
    return {
        "scatter": figures.size_and_complexity(parsed, paint),
        "trend": f"The median file decides once every {1 / (rates[len(rates) // 2] or 1):.0f} lines of code. Hover for names.",
        "map": figures.likeness_map(files, layout["points"], paint),
        "map_note": "Hashed identifiers of each file, projected; close means a shared vocabulary.",
        "legend": _legend(paint),
        "coverage": figures.coverage(rows[:_PACKAGES]),
        "coverage_note": f"Public classes, functions and modules; {share:.0%} over all. Packages with 8 definitions or more.",
        "histogram": figures.complexity_of_functions([one["complexity"] for _, one in _functions(files)]),
        "functions_note": "One map item per function: the longest of each file. McCabe wanted at most 10.",
    }


def _run_plots(files: Sequence[Mapping[str, Any]], run: Mapping[str, Any]) -> dict[str, str]:
    busy = run["busy_ms_by_item"]
    ranked = sorted(((file["module"], busy[index]) for index, file in enumerate(files) if index < len(busy)), key=lambda row: -row[1])
    return {"throughput": figures.throughput(run["timeline"]), "slowest": figures.slowest(ranked[:_SLOWEST])}


def _coverage(parsed: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, float]]:
    public: defaultdict[str, int] = defaultdict(int)
    documented: defaultdict[str, int] = defaultdict(int)
    for file in parsed:
        documentation = file["documentation"]
        if documentation is not None:
            public[file["package"]] += documentation["public"]
            documented[file["package"]] += documentation["documented"]
    rows = [(name, count, documented[name] / count) for name, count in public.items() if count >= 8]
    return sorted(rows, key=lambda row: (-row[2], row[0]))


def _legend(paint: Mapping[str, str]) -> str:
    dots = [f'<span><i class="dot" style="background:{colour}"></i>{html.escape(name)}</span>' for name, colour in paint.items()]
    return f'<div class="legend">{"".join(dots)}<span><i class="dot" style="background:{figures.OTHER}"></i>others</span></div>'


# --- tables -----------------------------------------------------------------------------------------------------


def _tables(files: Sequence[Mapping[str, Any]], run: Mapping[str, Any], layout: Mapping[str, Any]) -> dict[str, str]:
    worst = sorted(_functions(files), key=lambda pair: (-pair[1]["complexity"], pair[0]))[:8]
    broken = [file for file in files if not file["outline"]["parsed"]]
    names = {index: file["module"] for index, file in enumerate(files)}
    return {
        "complex": _table(
            ("function", "#complexity", "#lines", "#depth"),
            [(f"{module}.{one['name']}", one["complexity"], one["lines"], one["depth"]) for module, one in worst],
        ),
        "broken": _table(("module", "error"), [(file["module"], file["outline"].get("error", "")) for file in broken]),
        "alike": _table(("one", "the other", "#cosine"), [(pair["a"], pair["b"], f"{pair['cosine']:.3f}") for pair in layout["alike"]]),
        "pools": _table(
            ("pool", "#processes", "#steps", "#p50", "#p95", "#wait p50"),
            [
                (p["pool"], p["processes"], _count(p["executions"]), *map(_ms, (p["p50_ms"], p["p95_ms"], p["wait_p50_ms"])))
                for p in run["pools"]
            ],
        ),
        "steps": _table(
            ("step", "pool", "#runs", "#total", "#p50", "#max"),
            [
                (s["step"], s["pool"], _count(s["executions"]), f"{s['total_s']:.1f} s", _ms(s["p50_ms"]), _ms(s["max_ms"]))
                for s in run["steps"]
            ],
        ),
        "retries": _retries(run["retries"], names),
    }


def _retries(retries: Sequence[Mapping[str, Any]], names: Mapping[int, str]) -> str:
    """One row per step and reason, with the first few files."""
    grouped: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for one in retries:
        grouped[one["step"], one["reason"]].append(names.get(one["item"], f"item {one['item']}"))
    ranked = sorted(grouped.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    rows = [
        (step, reason, len(where), ", ".join(dict.fromkeys(where[:6])) + (" …" if len(where) > 6 else ""))
        for (step, reason), where in ranked
    ]
    return _table(("step", "reason", "#times", "files"), rows[:12])


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A column whose name begins with `#` holds numbers."""
    if not rows:
        return '<p class="note">None.</p>'
    numeric = [name.startswith("#") for name in head]
    tops = "".join(f"<th{_class(right)}>{html.escape(name.lstrip('#'))}</th>" for name, right in zip(head, numeric, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{_class(right)}>{_cell(value, right)}</td>" for value, right in zip(row, numeric, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{tops}</tr></thead><tbody>{body}</tbody></table>"


def _class(right: bool) -> str:
    return ' class="n"' if right else ""


def _cell(value: Any, numeric: bool) -> str:
    text = html.escape(str(value))
    return text if numeric else f"<code>{text}</code>"


def _functions(files: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """(module, shape) of every function that was measured."""
    return [(file["module"], one["result"]) for file in files for one in file["functions"] or () if one["outcome"] == "success"]


def _count(number: int) -> str:
    return f"{number:,}".replace(",", "\u202f")


def _ms(value: float) -> str:
    return f"{value:,.1f} ms" if value < 10 else f"{value:,.0f} ms".replace(",", "\u202f")
