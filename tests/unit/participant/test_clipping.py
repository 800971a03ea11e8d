"""Ghost clipping is the hooks' arithmetic without the gradients of single rows."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.optimizers import DPOptimizer
from torch import nn

from aegis_learning.datasets import Split
from aegis_learning.models import family
from aegis_learning.parameters import Parameters, flatten
from aegis_participant import clipping, training
from aegis_participant.layers import ModelNotPrivate
from aegis_participant.randomness import KeyStream
from aegis_participant.training import Task, fit, train

HOOKS, GHOST = 10**9, 0  # from how many parameters on ghost clipping is used


@dataclass(frozen=True, slots=True)
class Case:
    """A shape of the problem."""

    model: str
    rows: int
    features: int = 30
    classes: int = 2
    sample_rate: float = 0.5
    clip_norm: float = 1.0
    noise_multiplier: float = 1.3

    @property
    def task(self) -> Task:
        """The task for it."""
        return Task(
            model=family(self.model, self.features, self.classes),
            steps=5,
            learning_rate=0.5,
            sample_rate=self.sample_rate,
            clip_norm=self.clip_norm,
            noise_multiplier=self.noise_multiplier,
        )

    def data(self, seed: int) -> Split:
        """Rows like normalised ones."""
        random = np.random.default_rng(seed)
        x = random.uniform(-1, 1, (self.rows, self.features)).astype(np.float32)
        return Split(x, random.integers(0, self.classes, self.rows))


def _update(case: Case, seed: int, ghost_from: int, patch: pytest.MonkeyPatch) -> np.ndarray:
    patch.setattr(training, "GHOST_FROM", ghost_from)
    task = case.task
    result = train(task, task.model.initial(seed), case.data(seed), KeyStream.seeded(seed, 7))
    return flatten(result.delta)


LARGE = Case("mlp-96-80", 60)
widths = st.lists(st.integers(1, 80), max_size=4)
cases = st.builds(
    Case,
    model=widths.map(lambda hidden: "-".join(["mlp", *map(str, hidden)])),
    rows=st.integers(1, 60),
    features=st.integers(1, 40),
    classes=st.integers(2, 10),
    sample_rate=st.sampled_from([0.02, 0.1, 0.5, 1.0]),
    clip_norm=st.sampled_from([1e-3, 0.1, 1.0, 1e3]),
    noise_multiplier=st.sampled_from([1e-6, 0.5, 5.0]),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=cases, seed=st.integers(0, 1000))
def test_ghost_clipping_equals_hooks(case: Case, seed: int) -> None:
    """The same sample and noise, and the same update but for the rounding of a float."""
    with pytest.MonkeyPatch.context() as patch:
        hooks, ghost = (_update(case, seed, way, patch) for way in (HOOKS, GHOST))
    assert np.linalg.norm(ghost) > 0
    assert np.allclose(hooks, ghost, rtol=1e-4, atol=1e-5 * np.abs(hooks).max())


def test_ghost_clipping_repeats_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulation of a large model is a simulation like any other."""
    case = LARGE
    first, again, other = (_update(case, seed, GHOST, monkeypatch) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)


@pytest.mark.parametrize(("model", "expected"), [("mlp-256-16", clipping.Hooks), ("mlp-512", None)])
def test_number_of_parameters_decides(
    model: str, expected: type | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hooks below ten thousand parameters, ghost clipping from there on."""
    made: list[type] = []
    for kind in (clipping.Hooks, clipping.Ghost):

        class Seen(kind):  # type: ignore[misc,valid-type]
            def __init__(self, *arguments: object, kind: type = kind) -> None:
                made.append(kind)
                super().__init__(*arguments)

        monkeypatch.setattr(training, kind.__name__, Seen)
    case = Case(model, 10, features=18)
    task = case.task
    train(task, task.model.initial(1), case.data(1), KeyStream.seeded(1))
    assert [expected or clipping.Ghost] == made


@pytest.mark.parametrize("way", [HOOKS, GHOST], ids=["hooks", "ghost"])
def test_empty_samples_step_and_count(way: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is drawn: every step still adds noise, moves the model, and is counted."""
    noisy: list[float] = []
    original = DPOptimizer.scale_grad

    def counted(self: DPOptimizer) -> None:
        noisy.append(min(float(p.grad.abs().sum()) for p in self.params))
        original(self)

    monkeypatch.setattr(DPOptimizer, "scale_grad", counted)
    monkeypatch.setattr(training, "GHOST_FROM", way)
    case = replace(LARGE, sample_rate=1e-12)
    task = replace(case.task, steps=7)
    result = train(task, task.model.initial(1), case.data(1), KeyStream.seeded(1))
    assert 7 == len(noisy) == result.steps
    assert min(noisy) > 0


@pytest.mark.parametrize("way", [HOOKS, GHOST], ids=["hooks", "ghost"])
def test_large_sample_is_clipped_in_parts_and_makes_one_step(
    way: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same noise, same number of steps, same update; only the sum is added up in another order."""
    case = replace(LARGE, rows=100, sample_rate=1.0)
    whole = _update(case, 3, way, monkeypatch)
    seen: list[int] = []
    monkeypatch.setattr(clipping, "_rows", lambda numbers: 7)
    for kind in (clipping.Hooks, clipping.Ghost):
        original = kind.backward

        def counted(
            self: clipping.Clipping,
            x: torch.Tensor,
            y: torch.Tensor,
            original: object = original,
        ) -> None:
            seen.append(len(x))
            original(self, x, y)  # type: ignore[operator]

        monkeypatch.setattr(kind, "backward", counted)
    parts = _update(case, 3, way, monkeypatch)
    assert max(seen) == 7
    assert sum(seen) == 5 * 100
    assert np.allclose(whole, parts, rtol=1e-4, atol=1e-5 * np.abs(whole).max())


_LARGE = """
import resource, numpy as np
from aegis_learning.datasets import Split
from aegis_learning.models import family
from aegis_participant.randomness import KeyStream
from aegis_participant.training import Task, train

model = family("mlp-512-512-64", 30, 2)
task = Task(model, 1, 0.5, 1.0, 1.0, 1.3)
random = np.random.default_rng(1)
rows = Split(random.uniform(-1, 1, (20_000, 30)).astype(np.float32), random.integers(0, 2, 20_000))
train(task, model.initial(1), rows.take(np.arange(10)), KeyStream.seeded(1))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
train(task, model.initial(1), rows, KeyStream.seeded(1))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_large_model_and_batch_stay_within_memory() -> None:
    """300,000 parameters, 20,000 rows: their gradients would be 24 GB, their inputs alone 90 MB."""
    program = [sys.executable, "-c", _LARGE]
    grown = subprocess.run(program, capture_output=True, check=True, text=True, timeout=120)
    assert int(grown.stdout) < 150


class WithBatchNorm(nn.Sequential):
    """What somebody might bring."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(30, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))


class Untouchable(Split):
    """Rows that say when they are looked at."""

    def __getattribute__(self, name: str) -> object:
        raise AssertionError(f"{name} was looked at")


def _shared() -> nn.Module:
    layer = nn.Linear(30, 30)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(30, 2))


def _tied() -> nn.Module:
    first, second = nn.Linear(30, 30), nn.Linear(30, 30)
    second.weight = first.weight
    return nn.Sequential(first, second, nn.Linear(30, 2))


def _frozen() -> nn.Module:
    module = nn.Sequential(nn.Linear(30, 8), nn.Linear(8, 2))
    module[0].weight.requires_grad_(False)
    return module


class CleverLinear(nn.Linear):
    """Is a Linear, and looks at all rows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns what depends on the mean."""
        return super().forward(x - x.mean(0))


@pytest.mark.parametrize(
    ("module", "layer", "why"),
    [
        (nn.Sequential(nn.Linear(30, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)), "1", "BatchNorm1d"),
        (WithBatchNorm(), "the model", "WithBatchNorm"),
        (nn.Sequential(nn.Sequential(nn.Linear(30, 2), nn.Softmax(0))), "0.1", "Softmax"),
        (nn.Sequential(nn.Linear(30, 8), nn.Dropout(), nn.Linear(8, 2)), "1", "Dropout"),
        (nn.Sequential(CleverLinear(30, 2)), "0", "CleverLinear"),
        (_shared(), "2", "shares"),
        (_tied(), "1", "shares"),
        (_frozen(), "0", "not to be trained"),
        (nn.Sequential(nn.Tanh()), "the model", "nothing to train"),
    ],
    ids=[
        "batch norm",
        "own class",
        "softmax over rows",
        "dropout",
        "subclass",
        "layer used twice",
        "tied weights",
        "frozen layer",
        "no parameters",
    ],
)
def test_unsupported_layer_is_refused_by_name_before_a_row_is_seen(
    module: nn.Module, layer: str, why: str
) -> None:
    """Clipping would promise what it cannot keep."""
    rows = Untouchable.__new__(Untouchable)
    before = [p.clone() for p in module.parameters()]
    with pytest.raises(ModelNotPrivate, match=why) as refused:
        fit(module, Case("mlp", 10).task, rows, KeyStream.seeded(1))
    assert layer == refused.value.layer
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_other_dense_stacks_are_trained() -> None:
    """Whatever is on the list, in either way of clipping, equals Opacus' hooks."""
    for activation in (nn.ReLU(), nn.GELU(), nn.SiLU(), nn.ELU(), nn.Sigmoid(), nn.Identity()):
        torch.manual_seed(1)
        module = nn.Sequential(
            nn.Linear(30, 8, bias=False), nn.Sequential(activation, nn.Linear(8, 2))
        )
        begin = {name: values.clone() for name, values in module.state_dict().items()}
        case = Case("mlp", 20)
        ends: list[Parameters] = []
        for way in (HOOKS, GHOST):
            module.load_state_dict(begin)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(training, "GHOST_FROM", way)
                fit(module, case.task, case.data(1), KeyStream.seeded(1))
            ends.append({n: v.numpy().copy() for n, v in module.state_dict().items()})
        assert np.allclose(flatten(ends[0]), flatten(ends[1]), atol=1e-5)
        assert not np.allclose(flatten(ends[0]), flatten({n: v.numpy() for n, v in begin.items()}))
