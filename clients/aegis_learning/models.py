"""Model families both sides know by name.

A family is a stack of dense layers with tanh between them: bounded activations keep gradients
small, which is what clipping in DP-SGD rewards (Papernot et al. 2021, "Tempered Sigmoid
Activations for Deep Learning with Differential Privacy").
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aegis_learning.parameters import Array, Parameters

if TYPE_CHECKING:
    import torch


class UnknownModel(KeyError):
    """No family has this name."""


@dataclass(frozen=True, slots=True)
class Family:
    """Dense layers of these widths, input first, classes last."""

    name: str
    widths: tuple[int, ...]

    @property
    def features(self) -> int:
        """Number of inputs."""
        return self.widths[0]

    @property
    def classes(self) -> int:
        """Number of outputs."""
        return self.widths[-1]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the parameters."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in range(1, len(self.widths)):
            fan_in, fan_out = self.widths[layer - 1 : layer + 1]
            shapes[f"layer{layer}.weight"] = (fan_out, fan_in)
            shapes[f"layer{layer}.bias"] = (fan_out,)
        return shapes

    def initial(self, seed: int) -> Parameters:
        """Returns the model a run with this seed starts from: Glorot weights, no bias."""
        random = np.random.default_rng([seed & (2**64 - 1), 0x6D6F64])
        params: Parameters = {}
        for name, shape in self.shapes.items():
            bound = np.sqrt(6 / sum(shape)) if len(shape) == 2 else 0.0
            params[name] = random.uniform(-bound, bound, shape).astype(np.float32)
        return params

    def logits(self, params: Parameters, x: Array) -> Array:
        """Returns the model's answers, shape (rows, classes), computed with numpy."""
        activation: NDArray[Any] = x
        last = len(self.widths) - 1
        for layer in range(1, last + 1):
            weight, bias = params[f"layer{layer}.weight"], params[f"layer{layer}.bias"]
            activation = activation @ weight.T + bias
            if layer < last:
                activation = np.tanh(activation)
        return activation.astype(np.float32)

    def moved(self, params: Parameters, by: NDArray[np.float64]) -> Parameters:
        """Returns the parameters that answer for rows x - by as `params` do for x."""
        weight, bias = params["layer1.weight"], params["layer1.bias"]
        return params | {"layer1.bias": (bias + weight.astype(np.float64) @ by).astype(np.float32)}

    def torch_module(self) -> torch.nn.Module:
        """Returns the same model for training; its state dict has the names of `shapes`."""
        from torch import nn

        layers: OrderedDict[str, nn.Module] = OrderedDict()
        last = len(self.widths) - 1
        for layer in range(1, last + 1):
            layers[f"layer{layer}"] = nn.Linear(self.widths[layer - 1], self.widths[layer])
            if layer < last:
                layers[f"tanh{layer}"] = nn.Tanh()
        return nn.Sequential(layers)


# Hidden layers by name. Fewer parameters take less noise: "logistic" is the better choice below an
# epsilon of about two.
_HIDDEN: dict[str, tuple[int, ...]] = {"mlp": (16,), "logistic": ()}
_WIDTHS = re.compile(r"mlp((?:-[1-9][0-9]{0,3}){1,4})")


def family(name: str, features: int, classes: int) -> Family:
    """Returns the family of that name for so many inputs and outputs.

    "mlp-64-32" has hidden layers of these widths, at most four of at most 9,999 units. Raises
    `UnknownModel`.
    """
    match = _WIDTHS.fullmatch(name)
    if match is None and name not in _HIDDEN:
        raise UnknownModel(name)
    hidden = tuple(map(int, match[1][1:].split("-"))) if match else _HIDDEN[name]
    return Family(name, (features, *hidden, classes))
