"""The worker of pool `accel`: the numeric steps. A pool of its own because elsewhere it would own a GPU; here NumPy computes on the CPU.

Run as `python -m stepmesh_cli worker stepmesh_cli.demo.accel:accel`.
"""

from __future__ import annotations

from typing import Any

from stepmesh_cli.demo import numeric
from stepmesh_cli.demo.workers import File, demo_worker, read

accel = demo_worker("accel", 2)


@accel.component
def embed(file: File) -> dict[str, Any]:
    """A file's text as a vector, with its entropy in bits per byte."""
    text = read(file["path"])
    return {"vector": numeric.embed(text), "entropy": numeric.surprise(text)}


@accel.component
def layout(survey: dict[str, Any]) -> dict[str, Any]:
    """Where each file lies on a map of likeness, and which pairs are most alike."""
    files = survey["files"]
    vectors = [file["vector"] for file in files]
    names = [file["module"] for file in files]
    return {"points": numeric.layout(vectors), "alike": numeric.neighbours(names, vectors, 8)}
