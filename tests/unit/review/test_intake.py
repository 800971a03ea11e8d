"""What intake lets through, and what it refuses: nothing but finite numbers of the model."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.review.factories import FAMILY, a_round

from aegis.errors import InvalidArgument
from aegis_server.review.intake import require_update

GOOD = a_round().submissions[0].data


def update_like(**tensors: np.ndarray) -> bytes:
    """A safetensors file of the model, with some tensors replaced, or left out (None)."""
    whole: dict[str, np.ndarray | None] = {
        name: np.zeros(shape, np.float32) for name, shape in FAMILY.shapes.items()
    }
    whole |= {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    return safetensors.numpy.save({n: t for n, t in whole.items() if t is not None})


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    return buffer.getvalue()


class Exploding:
    """Unpickling this fails the test."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a pickle was opened",))


def _header(tensors: dict[str, object]) -> bytes:
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text + bytes(8)


REFUSALS = {
    "pickle": (pickle.dumps({"w": [1.0]}), "UPDATE_FORMAT_INVALID", ""),
    "old pickle": (pickle.dumps({"w": [1.0]}, protocol=2), "UPDATE_FORMAT_INVALID", ""),
    "hostile pickle": (pickle.dumps(Exploding()), "UPDATE_FORMAT_INVALID", ""),
    "zip": (zipped(), "UPDATE_FORMAT_INVALID", ""),
    "noise": (bytes(range(256)), "UPDATE_FORMAT_INVALID", ""),
    "header of 10 GB": ((10**10).to_bytes(8, "little") + b"{}", "UPDATE_FORMAT_INVALID", ""),
    "header longer than the file": (
        (2**63).to_bytes(8, "little") + GOOD[8:],
        "UPDATE_FORMAT_INVALID",
        "",
    ),
    "nested header": (
        (4000).to_bytes(8, "little") + b'{"a":' * 800 + GOOD,
        "UPDATE_FORMAT_INVALID",
        "",
    ),
    "tensor of 10 GB": (
        _header(
            {"layer1.weight": {"dtype": "F32", "shape": [50000, 50000], "data_offsets": [0, 8]}}
        ),
        "UPDATE_FORMAT_INVALID",
        "",
    ),
    "cut off": (GOOD[:-4], "UPDATE_FORMAT_INVALID", ""),
    "shape": (
        update_like(layer1__bias=np.zeros(3, np.float32)),
        "UPDATE_SHAPE_MISMATCH",
        "layer1.bias",
    ),
    "type": (update_like(layer1__bias=np.zeros(2)), "UPDATE_SHAPE_MISMATCH", "layer1.bias"),
    "missing": (update_like(layer1__bias=None), "UPDATE_SHAPE_MISMATCH", "layer1.bias"),
    "extra": (update_like(extra=np.zeros(1, np.float32)), "UPDATE_SHAPE_MISMATCH", "extra"),
    "nan": (
        update_like(layer1__bias=np.array([0, np.nan], np.float32)),
        "UPDATE_NOT_FINITE",
        "layer1.bias",
    ),
    "infinity": (
        update_like(layer1__weight=np.full((2, 30), -np.inf, np.float32)),
        "UPDATE_NOT_FINITE",
        "layer1.weight",
    ),
}


def test_update_of_the_model_is_let_through():
    """Nothing to complain about."""
    require_update(GOOD, FAMILY.shapes)


def test_numbers_too_small_to_be_normal_are_numbers():
    """A storm of denormals is let in: it is finite, and harmless where it is examined."""
    storm = {name: np.full(shape, 1e-42, np.float32) for name, shape in FAMILY.shapes.items()}
    require_update(
        update_like(**{n.replace(".", "__"): t for n, t in storm.items()}), FAMILY.shapes
    )


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_no_update_of_the_model_is_refused(name: str):
    """Each with its reason and, where one is to blame, the tensor."""
    data, reason, tensor = REFUSALS[name]
    with pytest.raises(InvalidArgument) as refused:
        require_update(data, FAMILY.shapes)
    assert refused.value.reason == reason
    assert refused.value.metadata.get("tensor", "") == tensor


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (pickle.dumps({"w": 1}), "a pickle"),
        (zipped(), "a zip"),
        (b"x" * 9, "not a safetensors"),
        (b"", "not a safetensors"),
        (b"\x80", "not a safetensors"),
    ],
)
def test_refusal_says_what_was_sent_instead(data: bytes, word: str):
    """Somebody who sent a torch checkpoint learns what to send."""
    with pytest.raises(InvalidArgument, match=f"{word}.*send a safetensors file"):
        require_update(data, FAMILY.shapes)


@given(st.binary(max_size=300), st.integers(0, len(GOOD) - 1))
def test_any_bytes_give_a_verdict_not_an_exception(noise: bytes, position: int):
    """Random bytes, and a good file overwritten with them, are refused or are an update."""
    for data in (noise, GOOD[:position] + noise + GOOD[position + len(noise) :]):
        # Anything but InvalidArgument fails the test.
        with suppress(InvalidArgument):
            require_update(data, FAMILY.shapes)
