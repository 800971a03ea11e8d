"""Arrays from Flower's messages, read without `numpy.load`."""

from __future__ import annotations

import ast
import io

import numpy as np
import pytest
from flwr.app import Array
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from aegis_learning import npy

KINDS = ("<f4", "<f8", "<i8", "|u1")


def saved(values: np.ndarray) -> bytes:
    """What `numpy.save` makes of an array."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


@given(
    st.sampled_from(KINDS).flatmap(
        lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0))
    ),
    st.booleans(),
)
def test_every_array_is_read_as_numpy_reads_it(values: np.ndarray, transposed: bool) -> None:
    """Kind, shape, order and values are the same."""
    data = saved(np.asfortranarray(values) if transposed else values)
    read, expected = npy.read(data), np.load(io.BytesIO(data))
    assert read.dtype == expected.dtype
    assert read.shape == expected.shape
    assert read.tobytes() == expected.tobytes()


@given(st.binary(max_size=200), st.integers(0, 199))
def test_damaged_file_is_refused_or_read_as_numpy_reads_it(noise: bytes, place: int) -> None:
    """No bytes raise anything but ValueError, and none are numbers to us and not to numpy."""
    data = bytearray(saved(np.arange(8, dtype=np.float32)))
    data[place : place + len(noise)] = noise
    try:
        read = npy.read(bytes(data))
    except ValueError:
        return
    assert read.tobytes() == np.load(io.BytesIO(bytes(data))).tobytes()


@pytest.mark.parametrize(
    "values",
    [
        np.array([{"a": 1}], dtype=object),
        np.zeros(2, dtype=[("a", "<f4")]),
        np.array(["text"]),
        np.zeros(2, dtype=">f4"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(values: np.ndarray) -> None:
    """Objects would be a pickle, and pickles can run."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=True)
    with pytest.raises(ValueError, match="not a NumPy file of numbers"):
        npy.read(buffer.getvalue())


def test_file_that_was_cut_is_refused() -> None:
    """And one with more than its header says."""
    data = saved(np.zeros((3, 4), dtype=np.float32))
    for wrong in (data[:-1], data + b"\0", data[:40], b""):
        with pytest.raises(ValueError, match="NumPy file"):
            npy.read(wrong)


def test_no_python_is_parsed_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPython 3.11 does not survive that in two threads at once."""

    def parsed(*arguments: object) -> object:
        raise AssertionError("a header was parsed as Python")

    monkeypatch.setattr(ast, "literal_eval", parsed)
    values = np.ones((2, 3), dtype=np.float32)
    assert np.array_equal(npy.read(Array(values).data), values)
