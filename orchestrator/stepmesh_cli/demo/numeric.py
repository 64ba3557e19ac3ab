"""The numeric step: a file's text as a vector, and vectors as points on a map. NumPy only, nothing is fitted beforehand.

A vector is a hashed bag of identifiers (the "hashing trick", Weinberger et al., ICML 2009), log-damped, brought to `DIMENSIONS`
numbers by a fixed random projection (Achlioptas, PODS 2001). The map is the first two principal components. Deterministic.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

BUCKETS = 4096
DIMENSIONS = 48
_WORD = re.compile(rb"[A-Za-z_][A-Za-z0-9_]{2,}")
_COMMON = frozenset(
    b"and assert break class continue def del elif else except finally for from global import lambda None nonlocal not pass raise "
    b"return self try while with yield True False the this that".split()
)

Vector = NDArray[np.float32]


def embed(text: bytes) -> list[float]:
    """`DIMENSIONS` numbers of length 1 together (or all 0 for a text without words), rounded to 4 places."""
    counts = Counter(word for word in _WORD.findall(text) if word not in _COMMON)
    bag = np.zeros(BUCKETS, np.float32)
    for word, count in counts.items():
        digest = zlib.crc32(word.lower())
        bag[digest % BUCKETS] += np.log1p(count) if digest & 0x80000000 else -np.log1p(count)
    vector = bag @ _projection()
    length = float(np.linalg.norm(vector))
    return [round(float(value), 4) for value in (vector / length if length else vector)]


def surprise(text: bytes) -> float:
    """Shannon entropy of the bytes, bits per byte."""
    if not text:
        return 0.0
    shares = np.bincount(np.frombuffer(text, np.uint8), minlength=256) / len(text)
    present = shares[shares > 0]
    return round(float(-(present * np.log2(present)).sum()), 4)


def layout(vectors: Sequence[Sequence[float]]) -> list[list[float]]:
    """Two coordinates per vector, by principal components (singular value decomposition), scaled to −1 … 1; signs are fixed."""
    if len(vectors) < 3:
        return [[0.0, 0.0] for _ in vectors]
    points = np.asarray(vectors, np.float64)
    points -= points.mean(axis=0)
    _, _, axes = np.linalg.svd(points, full_matrices=False)
    flat: NDArray[np.float64] = points @ axes[:2].T
    flat *= np.sign(flat[np.abs(flat).argmax(axis=0), [0, 1]])
    widest = float(np.abs(flat).max()) or 1.0
    return [[round(float(x), 4), round(float(y), 4)] for x, y in flat / widest]


def neighbours(names: Sequence[str], vectors: Sequence[Sequence[float]], count: int) -> list[dict[str, Any]]:
    """The `count` most alike pairs by cosine, best first."""
    points = np.asarray(vectors, np.float64)
    alike = np.triu(points @ points.T, 1)
    best = np.argsort(alike, axis=None)[::-1][:count]
    rows, columns = np.unravel_index(best, alike.shape)
    return [
        {"a": names[a], "b": names[b], "cosine": round(float(alike[a, b]), 3)} for a, b in zip(rows.tolist(), columns.tolist(), strict=True)
    ]


@cache
def _projection() -> Vector:
    dice = np.random.default_rng(20_240_229)
    return (dice.integers(0, 2, (BUCKETS, DIMENSIONS)).astype(np.float32) * 2 - 1) / np.float32(np.sqrt(DIMENSIONS))
