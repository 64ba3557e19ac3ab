"""Vectors and the map: deterministic, of unit length, alike texts near each other."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stepmesh_cli.demo.numeric import DIMENSIONS, embed, layout, neighbours, surprise

WALK = b"walk path folder file entry scan stat walk path folder"
DRAW = b"pixel colour canvas brush line circle draw pixel colour"


def cosine(one: list[float], other: list[float]) -> float:
    return float(np.dot(one, other))


def test_a_vector_has_unit_length_and_is_the_same_each_time() -> None:
    vector = embed(WALK)
    assert len(vector) == DIMENSIONS
    assert math.isclose(cosine(vector, vector), 1, abs_tol=1e-2)
    assert vector == embed(WALK)


def test_text_without_words_is_the_origin() -> None:
    assert embed(b"") == [0.0] * DIMENSIONS
    assert embed(b"if x: return 1") == [0.0] * DIMENSIONS


def test_a_shared_vocabulary_is_near() -> None:
    assert cosine(embed(WALK), embed(WALK + b" extra")) > 0.8 > cosine(embed(WALK), embed(DRAW))


@pytest.mark.parametrize(("text", "bits"), [(b"", 0.0), (b"aaaa", 0.0), (b"abab", 1.0), (bytes(range(256)), 8.0)])
def test_entropy_in_bits_per_byte(text: bytes, bits: float) -> None:
    assert surprise(text) == bits


def test_two_groups_stay_apart_on_the_map() -> None:
    dice = np.random.default_rng(1)
    near = dice.normal(0, 0.05, (20, 8)) + np.eye(8)[0]
    far = dice.normal(0, 0.05, (20, 8)) + np.eye(8)[1]
    points = np.array(layout([*near.tolist(), *far.tolist()]))
    assert np.abs(points).max() <= 1.0
    one, other = points[:20], points[20:]
    spread = max(one.std(axis=0).max(), other.std(axis=0).max())
    assert np.linalg.norm(one.mean(axis=0) - other.mean(axis=0)) > 2 * spread


def test_the_map_is_the_same_each_time_and_finite_for_equal_points() -> None:
    vectors = [embed(b"name%d other%d" % (number, number // 3)) for number in range(30)]
    assert layout(vectors) == layout(vectors)
    assert np.isfinite(layout([[1.0, 0.0]] * 30)).all()


def test_a_few_points_need_no_map() -> None:
    assert layout([[1.0, 0.0]] * 9) == [[0.0, 0.0]] * 9
    assert layout([]) == []


def test_the_most_alike_pairs_come_first_without_pairs_of_one() -> None:
    vectors = [[1.0, 0.0], [0.6, 0.8], [0.98, 0.199]]
    found = neighbours(["a", "b", "c"], vectors, 2)
    assert [(pair["a"], pair["b"]) for pair in found] == [("a", "c"), ("b", "c")]
    assert found[0]["cosine"] == 0.98
