"""Sketches stand in for vectors."""

from __future__ import annotations

import numpy as np
import pytest

from aegis_server.review import sketches


def vectors(cosine: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    a, b = random.normal(size=(2, size))
    b -= a * (a @ b) / (a @ a)
    b *= np.linalg.norm(a) / np.linalg.norm(b)
    return a.astype(np.float32), (cosine * a + np.sqrt(1 - cosine**2) * b).astype(np.float32)


@pytest.mark.parametrize("cosine", [-1.0, -0.4, 0.0, 0.5, 0.99])
def test_cosine_of_sketches_is_that_of_the_vectors(cosine: float):
    """Within four deviations of 1 / sqrt(1024)."""
    a, b = vectors(cosine, 20_000)
    found = sketches.cosine(sketches.sketch(a), sketches.sketch(b))
    assert found == pytest.approx(cosine, abs=4 / 32)


def test_sketch_is_what_its_definition_says():
    """SplitMix64 of the position, in plain Python: what one remembers, another understands."""
    mask = 2**64 - 1
    expected = [0.0] * sketches.BUCKETS
    for position in range(5000):
        z = (position + 1) * 0x9E3779B97F4A7C15 & mask
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        z ^= z >> 31
        expected[z % sketches.BUCKETS] += position if z >> 63 else -position
    made = sketches.sketch(np.arange(5000, dtype=np.float32))
    assert np.frombuffer(made, "<f4").tolist() == expected


def test_mean_of_sketches_is_the_sketch_of_the_mean():
    """They add up as vectors do."""
    a, b = vectors(0.3, 3000)
    mean = sketches.mean([sketches.sketch(a), sketches.sketch(b)])
    np.testing.assert_allclose(
        sketches.values(mean), sketches.values(sketches.sketch((a + b) / 2)), atol=1e-4
    )
    weighted = sketches.mean([sketches.sketch(a), sketches.sketch(b)], [30, 10])
    np.testing.assert_allclose(
        sketches.values(weighted), sketches.values(sketches.sketch((3 * a + b) / 4)), atol=1e-4
    )


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch):
    """A vector of several blocks is one vector: its sketch is that of its parts together."""
    monkeypatch.setattr(sketches, "_BLOCK", 100)
    a, b = vectors(0.8, 5000)
    found = sketches.cosine(sketches.sketch(a), sketches.sketch(b))
    assert found == pytest.approx(0.8, abs=4 / 32)


def test_zeros_have_no_direction_and_huge_numbers_keep_theirs():
    """Neither is an error."""
    zeros = sketches.sketch(np.zeros(10, np.float32))
    huge = sketches.sketch(np.full(5000, 3e38, np.float32))
    assert sketches.cosine(zeros, huge) == 0.0
    assert sketches.cosine(huge, sketches.sketch(np.ones(5000, np.float32))) == pytest.approx(1)


def test_anything_else_is_refused():
    """Half a sketch is a mistake, not a vector."""
    with pytest.raises(ValueError):
        sketches.values(b"\0" * 8)
