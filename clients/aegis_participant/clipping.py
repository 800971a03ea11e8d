"""Clipped gradients of a batch, in two ways that give the same sums.

*Hooks* (Opacus) write down the gradient of every row: rows × parameters numbers, which is nothing
for a small model and fifty times the cost of an ordinary step for a large one.

*Ghost clipping* never does (Goodfellow 2015, "Efficient Per-Example Gradient Computations"; Li,
Tramèr, Liang, Hashimoto 2022, "Large Language Models Can Be Strong Differentially Private
Learners"; Bu, Mao, Xu 2022). In a dense layer the gradient of one row is the outer product of the
slope b at its output and its input a, so its square norm is ‖a‖²·‖b‖² (‖b‖² for the bias), and the
sum of clipped gradients is one matrix product, (c·b)ᵀa. Opacus' version of it goes backward twice,
once for the norms and once for the sum. Here the slopes are kept, so once is enough.

A gradient that is not finite has no norm to clip to: not a number times nothing is not a number,
and neither is the sum it gets into, whatever noise is added. Whoever chooses the model could choose
one that overflows for a single row, and see from the sum that the row is there. So such a row adds
nothing, which is within its bound.
"""

from __future__ import annotations

from typing import Protocol

import torch
from opacus import GradSampleModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from aegis_participant.layers import dense_layers

# Where ghost clipping takes over. Both sides are measured in docs/training-measured.md.
GHOST_FROM = 10_000
# What one pass over a part of the batch may take.
_BATCH_BYTES = 64 * 2**20
_FLOAT_BYTES = 4
# As Opacus: keeps the divisor from zero.
_TINY = 1e-6


class Clipping(Protocol):
    """A way to clip: `rows_max` is how many rows fit into one pass."""

    rows_max: int

    def backward(self, x: Tensor, y: Tensor) -> None:
        """Leaves the gradients of these rows where the optimizer of this way looks for them."""


class Hooks:
    """Opacus' gradients of every row, in `grad_sample`; clipped by `DPOptimizer`."""

    def __init__(self, module: nn.Module) -> None:
        # The wrapper shares its parameters with `module`; reading them there avoids its name
        # prefix. Gradients are those of a sum, and the optimizer divides by the *expected* batch
        # size: the actual one is private.
        self._private = GradSampleModule(module, loss_reduction="sum")
        # The gradients, and as much again while they are clipped.
        self.rows_max = _rows(2 * size(module))

    def backward(self, x: Tensor, y: Tensor) -> None:
        """Sets `grad_sample` of every parameter."""
        cross_entropy(self._private(x), y, reduction="sum").backward()  # type: ignore[no-untyped-call]
        gradients = [parameter.grad_sample for parameter in self._private.parameters()]
        # One number a row that is finite only if all of its gradient is.
        finite = torch.stack([each.flatten(1).sum(1) for each in gradients]).sum(0).isfinite()
        if not finite.all():
            for each in gradients:
                each[~finite] = 0


class Ghost:
    """Sums of clipped gradients, in `grad`: for `DPOptimizerFastGradientClipping`, which adds them.

    Raises `ModelNotPrivate`.
    """

    def __init__(self, module: nn.Module, clip_norm: float) -> None:
        self._module = module
        self._clip_norm = clip_norm
        self._seen: list[tuple[Tensor, Tensor]] = []
        self._layers = dense_layers(module)
        for layer in self._layers:
            layer.register_forward_hook(self._see)
        # Inputs, outputs, slopes, and slopes times the factor.
        self.rows_max = _rows(sum(2 * n.in_features + 4 * n.out_features for n in self._layers))

    def _see(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._seen.append((inputs[0].detach(), output))

    def backward(self, x: Tensor, y: Tensor) -> None:
        """Sets `grad` of every parameter to the sum of the rows' clipped gradients."""
        self._seen.clear()
        loss = cross_entropy(self._module(x), y, reduction="sum")
        inputs = [a for a, _ in self._seen]
        # Asked for the slopes alone, autograd leaves the gradients of the parameters out.
        slopes = torch.autograd.grad(loss, [output for _, output in self._seen])
        self._seen.clear()
        squares = torch.zeros(len(x))
        for layer, a, b in zip(self._layers, inputs, slopes, strict=True):
            ones = 0 if layer.bias is None else 1
            squares += (a.square().sum(1) + ones) * b.square().sum(1)
        finite = squares.isfinite()
        if not finite.all():
            squares = squares[finite]
            inputs, slopes = [a[finite] for a in inputs], tuple(b[finite] for b in slopes)
        factors = (self._clip_norm / (squares.sqrt() + _TINY)).clamp(max=1.0).unsqueeze(1)
        for layer, a, b in zip(self._layers, inputs, slopes, strict=True):
            clipped = b * factors
            layer.weight.grad = clipped.T @ a
            if layer.bias is not None:
                layer.bias.grad = clipped.sum(0)


def size(module: nn.Module) -> int:
    """Returns the number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def _rows(numbers: int) -> int:
    return max(1, _BATCH_BYTES // (_FLOAT_BYTES * numbers))
