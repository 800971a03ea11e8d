"""What privacy costs a step: an ordinary SGD step beside a private one, by hooks and by ghost.

    nice -n 10 python bench/training/steps.py
    nice -n 10 python bench/training/steps.py --parameters 2000 85000 --batches 128 --steps 50

*Plain* is PyTorch's SGD on the same dense model. *Hooks* and *ghost* are the two ways
`aegis_participant` clips (it takes hooks below 10,000 parameters and ghost from there on), without
noise, so that the ways can be compared. *Opacus ghost* is what Opacus offers for the same purpose.
*Noise* is what the secure noise for as many parameters adds to either of ours.

Contenders take turns; each figure is the median over the steps, in CPU milliseconds of this
process, one thread. Hooks are left out where the gradients of the rows would not fit into
--memory gigabytes.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers.optimizer_fast_gradient_clipping import DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from aegis_learning.models import Family, family
from aegis_participant.clipping import Clipping, Ghost, Hooks
from aegis_participant.randomness import KeyStream
from aegis_participant.training import GhostNoise, StreamNoise, Task

Step = Callable[[], None]

# Families of about so many parameters, for 30 features and 2 classes.
MODELS = {
    2_000: "mlp-64",
    85_000: "mlp-260-260-32",
    309_000: "mlp-512-512-64",
    1_000_000: "mlp-1000-940-32",
}


@dataclass(frozen=True)
class Line:
    """Medians of one size, CPU milliseconds; None where it was not tried."""

    parameters: int
    batch: int
    plain: float
    hooks: float | None
    ghost: float
    opacus_ghost: float
    noise: float


class NoNoise(KeyStream):
    """A stream that costs nothing: for the clipping alone."""

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros(shape)


def plain(module: nn.Module, x: Tensor, y: Tensor) -> Step:
    """An ordinary step."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(module(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def private(module: nn.Module, clipping: Clipping, task: Task, x: Tensor, y: Tensor) -> Step:
    """A step of ours, without noise."""
    kind = GhostNoise if isinstance(clipping, Ghost) else StreamNoise
    sgd = torch.optim.SGD(module.parameters(), lr=0.1)
    optimizer = kind(sgd, stream=NoNoise.seeded(1), task=task, rows=len(x))

    def step() -> None:
        optimizer.zero_grad()
        clipping.backward(x, y)
        optimizer.step()

    return step


def opacus_ghost(module: nn.Module, task: Task, x: Tensor, y: Tensor) -> Step:
    """A step of Opacus' ghost clipping, without noise."""
    wrapped = GradSampleModuleFastGradientClipping(
        module, loss_reduction="sum", max_grad_norm=task.clip_norm
    )
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.SGD(wrapped.parameters(), lr=0.1),
        noise_multiplier=0.0,
        max_grad_norm=task.clip_norm,
        expected_batch_size=len(x),
        loss_reduction="sum",
    )
    loss = DPLossFastGradientClipping(
        wrapped, optimizer, nn.CrossEntropyLoss(reduction="sum"), "sum"
    )

    def step() -> None:
        optimizer.zero_grad()
        loss(wrapped(x), y).backward()
        optimizer.step()

    return step


def noise(model: Family) -> Step:
    """The noise of one step."""
    stream = KeyStream.secret()

    def step() -> None:
        for shape in model.shapes.values():
            stream.normal(shape)

    return step


def measure(contenders: dict[str, Step], steps: int) -> dict[str, float]:
    """Returns the median CPU milliseconds of each; they take turns."""
    seen: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(steps + 2):
        for name, step in contenders.items():
            began = time.process_time()
            step()
            if number >= 2:  # the first ones allocate
                seen[name].append(1e3 * (time.process_time() - began))
    return {name: median(values) for name, values in seen.items()}


def line(model: Family, batch: int, steps: int, memory: float) -> Line:
    """Measures one size."""
    size = sum(int(np.prod(shape)) for shape in model.shapes.values())
    random = np.random.default_rng(1)
    x = torch.from_numpy(random.uniform(-1, 1, (batch, model.features)).astype(np.float32))
    y = torch.from_numpy(random.integers(0, model.classes, batch))
    task = Task(model, 1, 0.1, 1.0, 1.0, 1.0)
    contenders = {"plain": plain(model.torch_module(), x, y), "noise": noise(model)}
    module = model.torch_module()
    contenders["ghost"] = private(module, Ghost(module, 1.0), task, x, y)
    contenders["opacus_ghost"] = opacus_ghost(model.torch_module(), task, x, y)
    if 2 * 4 * size * batch < memory * 1e9:
        module = model.torch_module()
        contenders["hooks"] = private(module, Hooks(module), task, x, y)
    found = measure(contenders, steps)
    return Line(
        parameters=size,
        batch=batch,
        plain=found["plain"],
        hooks=found.get("hooks"),
        ghost=found["ghost"],
        opacus_ghost=found["opacus_ghost"],
        noise=found["noise"],
    )


def row(measured: Line) -> str:
    """Returns a row of the table, in Markdown."""
    hooks = f"{measured.hooks:.1f}" if measured.hooks else "-"
    times = f"× {measured.hooks / measured.plain:.1f}" if measured.hooks else "-"
    return (
        f"| {measured.parameters:,} | {measured.batch} | {measured.plain:.2f} | {hooks} | {times} |"
        f" {measured.ghost:.2f} | × {measured.ghost / measured.plain:.1f} |"
        f" × {measured.opacus_ghost / measured.plain:.1f} | {measured.noise:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=int, nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 128, 256])
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--memory", type=float, default=2.5, help="gigabytes hooks may take")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="Full backward hook")
    torch.set_num_threads(1)
    before = os.getloadavg()[0]
    print("| parameters | batch | plain, ms | hooks, ms | | ghost, ms |", end=" ")
    print("| Opacus ghost | noise, ms |")
    print("|---|---|---|---|---|---|---|---|---|")
    lines = []
    for wanted in options.parameters:
        for batch in options.batches:
            model = family(MODELS[wanted], 30, 2)
            lines.append(line(model, batch, options.steps, options.memory))
            print(row(lines[-1]), flush=True)
    print(f"{options.steps} steps each, load {before:.1f} to {os.getloadavg()[0]:.1f}", end=" ")
    print(f"on {os.cpu_count()} cores")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(each) for each in lines], indent=2) + "\n")


if __name__ == "__main__":
    main()
