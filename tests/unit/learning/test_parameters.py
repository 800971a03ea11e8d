"""Parameters on the wire: what is read is what was written, and nothing else is read."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import safetensors.numpy

from aegis_learning import parameters
from aegis_learning.models import family

MLP = family("mlp", 30, 2)


def test_decoding_returns_what_was_encoded_and_bytes_are_canonical() -> None:
    """Equal parameters give equal bytes whatever order they were named in."""
    params = MLP.initial(3)
    shuffled = dict(reversed(params.items()))
    assert parameters.encode(params) == parameters.encode(shuffled)
    decoded = parameters.decode(parameters.encode(params), MLP.shapes)
    assert all(np.array_equal(params[name], decoded[name]) for name in MLP.shapes)


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 64, pickle.dumps({"layer1.weight": 1}), b"\xff" * 200]
)
def test_bytes_that_are_not_safetensors_are_refused(data: bytes) -> None:
    """A pickle is refused by its form; nothing of it runs."""
    with pytest.raises(parameters.FormatError):
        parameters.decode(data, MLP.shapes)


def test_truncated_file_is_refused() -> None:
    """Half an update is none."""
    with pytest.raises(parameters.FormatError):
        parameters.decode(parameters.encode(MLP.initial(0))[:-4], MLP.shapes)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_tensor(value: float) -> None:
    """The error names where."""
    params = MLP.initial(0)
    params["layer2.bias"][0] = value
    with pytest.raises(parameters.NotFiniteError) as refused:
        parameters.decode(parameters.encode(params), MLP.shapes)
    assert refused.value.tensor == "layer2.bias"


def _without(name: str) -> dict[str, np.ndarray]:
    return {key: value for key, value in MLP.initial(0).items() if key != name}


@pytest.mark.parametrize(
    ("tensors", "blamed"),
    [
        (_without("layer1.bias"), "layer1.bias"),
        ({**MLP.initial(0), "extra": np.zeros(1, np.float32)}, "extra"),
        ({**MLP.initial(0), "layer2.bias": np.zeros(3, np.float32)}, "layer2.bias"),
        ({**MLP.initial(0), "layer2.bias": np.zeros(2, np.float64)}, "layer2.bias"),
    ],
)
def test_tensors_of_another_model_are_refused_by_name(
    tensors: dict[str, np.ndarray], blamed: str
) -> None:
    """Missing, extra, another shape, another type; on the wire and in memory."""
    with pytest.raises(parameters.ShapeError) as refused:
        parameters.decode(safetensors.numpy.save(tensors), MLP.shapes)
    assert blamed == refused.value.tensor
    with pytest.raises(parameters.ShapeError) as refused:
        parameters.check(tensors, MLP.shapes)
    assert blamed == refused.value.tensor


def test_update_added_to_its_base_gives_the_parameters() -> None:
    """subtract and add are inverse up to float32 rounding."""
    base, after = MLP.initial(0), MLP.initial(1)
    again = parameters.add(base, parameters.subtract(after, base))
    assert np.allclose(parameters.flatten(after), parameters.flatten(again), atol=1e-7)


def test_unflattened_vector_has_the_names_and_shapes_of_the_model() -> None:
    """It is what was flattened."""
    params = MLP.initial(0)
    again = parameters.unflatten(parameters.flatten(params), MLP.shapes)
    assert params.keys() == again.keys()
    assert all(np.array_equal(params[name], again[name]) for name in params)


def test_decoded_parameters_are_nobody_elses():
    """They can be written to, and reading again finds what was sent."""
    shapes = {"w": (2, 2)}
    data = parameters.encode({"w": np.ones((2, 2), np.float32)})
    parameters.decode(data, shapes)["w"][:] = 7.0
    assert (parameters.decode(data, shapes)["w"] == 1.0).all()
