"""Private training of one site: DP-SGD (Abadi et al. 2016) with Opacus.

Every step draws a Poisson sample, clips each example's gradient, adds noise, and counts. A step
whose sample happens to be empty is a step like any other: leaving it out would make the noise
depend on the data, and the accountant would not have seen it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer_fast_gradient_clipping import DPOptimizerFastGradientClipping

from aegis_learning.datasets import Split
from aegis_learning.models import Family
from aegis_learning.parameters import Parameters, subtract
from aegis_learning.scores import accuracy, log_loss
from aegis_participant.clipping import GHOST_FROM, Clipping, Ghost, Hooks, size
from aegis_participant.layers import dense_layers
from aegis_participant.randomness import KeyStream


@dataclass(frozen=True, slots=True)
class Task:
    """What a site is asked to do in one round.

    `sample_rate` is the q of Poisson sampling, `noise_multiplier` the noise's standard deviation
    relative to `clip_norm`. `proximal` is the μ of FedProx (Li et al. 2020, section 3.2): every
    step also pulls the model to where the round began; that depends on no row, so it costs nothing.

    `centre` is a row, chosen without looking at any that is trained on: gradients are those for
    rows less it, so that what all rows have in common does not fill the clip norm. The update is
    that of the model for rows as they are; to turn one into the other is arithmetic on what is
    private already. Empty means that rows stay as they are.
    """

    model: Family
    steps: int
    learning_rate: float
    sample_rate: float
    clip_norm: float
    noise_multiplier: float
    proximal: float = 0.0
    centre: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """The update (parameters after minus before), and how the trained model does on the rows."""

    delta: Parameters
    loss: float
    accuracy: float
    steps: int


class StreamNoise(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimizer with noise from our key stream instead of torch's generator.

    (Opacus' own secure mode needs torchcsprng, which has no release for this torch.)
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, stream: KeyStream, task: Task, rows: int
    ):
        super().__init__(
            optimizer,
            noise_multiplier=task.noise_multiplier,
            max_grad_norm=task.clip_norm,
            expected_batch_size=task.sample_rate * rows,
        )
        self._stream = stream
        self._proximal = task.proximal
        self._begin = [p.detach().clone() for p in self.params] if task.proximal else []

    def add_noise(self) -> None:
        """Adds noise to the sum of clipped gradients."""
        std = self.noise_multiplier * self.max_grad_norm
        for p in self.params:
            noise = torch.from_numpy(self._stream.normal(tuple(p.shape)))
            # In double precision, and where it is: at a million parameters each pass is a cost.
            p.grad = noise.mul_(std).add_(p.summed_grad).float().view_as(p)

    def scale_grad(self) -> None:
        """Divides by the expected batch size, and then adds the gradient of the proximal term."""
        super().scale_grad()
        for p, begin in zip(self.params, self._begin, strict=False):
            p.grad += self._proximal * (p.detach() - begin)


class GhostNoise(StreamNoise, DPOptimizerFastGradientClipping):  # type: ignore[misc]
    """The same noise on sums that come clipped."""


def train(task: Task, base: Parameters, data: Split, stream: KeyStream) -> Result:
    """Trains `steps` private steps from `base` on the site's rows."""
    # Asked, a thread takes over the process' number; before, its first products use every core,
    # add up in another order, and a run that is repeated ends elsewhere.
    torch.get_num_threads()
    model = task.model
    module = model.torch_module()
    centre = np.array(task.centre)
    begin = model.moved(base, centre) if task.centre else base
    rows = Split((data.x - centre).astype(np.float32), data.y) if task.centre else data
    module.load_state_dict({name: torch.tensor(values) for name, values in begin.items()})
    rows_max = fit(module, task, rows, stream)
    after = {
        name: values.numpy().astype(np.float32, copy=True)
        for name, values in module.state_dict().items()
    }
    if task.centre:
        after = model.moved(after, -centre)
    logits = np.concatenate(
        [
            model.logits(after, data.x[start : start + rows_max])
            for start in range(0, max(len(data), 1), rows_max)
        ]
    )
    return Result(
        delta=subtract(after, base),
        loss=log_loss(logits, data.y),
        accuracy=accuracy(logits, data.y),
        steps=task.steps,
    )


def fit(module: torch.nn.Module, task: Task, data: Split, stream: KeyStream) -> int:
    """Trains a module where it is, and returns how many rows it took at a time.

    A larger sample is clipped in parts and makes one step. Raises `ModelNotPrivate` before any row
    is looked at.
    """
    dense_layers(module)
    plain = torch.optim.SGD(module.parameters(), lr=task.learning_rate)
    clipping: Clipping
    if size(module) < GHOST_FROM:
        clipping, kind = Hooks(module), StreamNoise
    else:
        clipping, kind = Ghost(module, task.clip_norm), GhostNoise
    optimizer = kind(plain, stream=stream, task=task, rows=len(data))
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    for _ in range(task.steps):
        drawn = np.flatnonzero(stream.uniform(len(data)) < task.sample_rate)
        # An empty sample is one part without rows.
        starts = range(0, max(len(drawn), 1), clipping.rows_max)
        for start in starts:
            part = drawn[start : start + clipping.rows_max]
            optimizer.zero_grad()
            clipping.backward(x[part], y[part])
            optimizer.signal_skip_step(start != starts[-1])
            optimizer.step()
    return clipping.rows_max
