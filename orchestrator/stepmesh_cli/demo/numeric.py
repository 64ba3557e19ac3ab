"""The numeric step: a file's text as a vector, and vectors as points on a map. NumPy only, nothing is fitted beforehand.

A vector is a hashed bag of identifiers (the "hashing trick", Weinberger et al., ICML 2009), log-damped, brought to `DIMENSIONS`
numbers by a fixed random projection (Achlioptas, PODS 2001). The map is exact t-SNE (van der Maaten and Hinton, JMLR 2008).
Deterministic.
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

PERPLEXITY = 12.0
"""Neighbours that count for a file on the map."""
TURNS = 400
"""Of the gradient descent."""

Vector = NDArray[np.float32]
Matrix = NDArray[np.float64]


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
    """Two coordinates per vector within −1 … 1, alike vectors near each other: t-SNE from the principal components."""
    if len(vectors) < 10:
        return [[0.0, 0.0] for _ in vectors]
    points = np.asarray(vectors, np.float64)
    points -= points.mean(axis=0)
    _, _, axes = np.linalg.svd(points, full_matrices=False)
    start: Matrix = points @ axes[:2].T
    start *= np.sign(start[np.abs(start).argmax(axis=0), [0, 1]])
    flat = _spread(_affinities(points), start * (1e-2 / (start.std() or 1.0)))
    flat -= (flat.max(axis=0) + flat.min(axis=0)) / 2
    return [[round(float(x), 4), round(float(y), 4)] for x, y in flat / (np.abs(flat).max(axis=0) + 1e-12)]


def _affinities(points: Matrix) -> Matrix:
    """Symmetric neighbour probabilities; each row's width by bisection, so that its entropy is that of `PERPLEXITY` neighbours."""
    squares = _squared_distances(points)
    np.fill_diagonal(squares, np.inf)  # nobody is its own neighbour
    target = float(np.log(min(PERPLEXITY, len(points) / 3)))
    found = np.stack([_shares(distances, target) for distances in squares])
    return np.maximum((found + found.T) / (2 * len(points)), 1e-12)


def _shares(distances: Matrix, target: float) -> Matrix:
    """Of one point's neighbours."""
    nearest = distances.min()
    shares = np.zeros_like(distances)
    low, high, beta = 0.0, np.inf, 1.0
    for _ in range(50):
        weights = np.exp(-(distances - nearest) * beta)
        shares = weights / weights.sum()
        entropy = -(shares * np.log(shares + 1e-300)).sum()
        low, high = (beta, high) if entropy > target else (low, beta)
        beta = beta * 2 if high == np.inf else (low + high) / 2
    return shares


def _spread(affinities: Matrix, flat: Matrix) -> Matrix:
    """Gradient descent with momentum and early exaggeration."""
    velocity = np.zeros_like(flat)
    for turn in range(TURNS):
        near = 1 / (1 + _squared_distances(flat))
        np.fill_diagonal(near, 0.0)
        pull = (affinities * (4.0 if turn < 100 else 1.0) - near / near.sum()) * near
        gradient = 4 * (pull.sum(axis=1)[:, None] * flat - pull @ flat)
        velocity = (0.5 if turn < 100 else 0.8) * velocity - len(flat) / 12 * gradient
        flat = flat + velocity
    return flat


def _squared_distances(points: Matrix) -> Matrix:
    norms = (points**2).sum(axis=1)
    squares: Matrix = norms[:, None] + norms[None, :] - 2 * points @ points.T
    return np.maximum(squares, 0.0, out=squares)


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
