"""A site's private training: what leaves it, and what the accountant may rely on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from opacus.optimizers import DPOptimizer

from aegis_learning.datasets import Split, load, partition
from aegis_learning.models import family
from aegis_learning.parameters import Parameters, flatten
from aegis_participant import training
from aegis_participant.app import Order, app
from aegis_participant.attacks import attacker
from aegis_participant.randomness import KeyStream
from aegis_participant.training import Task, train

MLP = family("mlp", 30, 2)
TASK = Task(
    model=MLP, steps=4, learning_rate=1.0, sample_rate=0.3, clip_norm=1.0, noise_multiplier=1.4
)
ROWS = partition(load("breast-cancer").shared, 5, 1.0, 1)[0]


def test_same_stream_gives_the_same_update_and_another_one_does_not() -> None:
    """A simulation repeats bit for bit; secret noise never does."""
    base = MLP.initial(1)
    first = flatten(train(TASK, base, ROWS, KeyStream.seeded(1, 2)).delta)
    assert np.array_equal(first, flatten(train(TASK, base, ROWS, KeyStream.seeded(1, 2)).delta))
    assert not np.allclose(first, flatten(train(TASK, base, ROWS, KeyStream.seeded(1, 3)).delta))
    secret = [flatten(train(TASK, base, ROWS, KeyStream.secret()).delta) for _ in range(2)]
    assert not np.allclose(secret[0], secret[1])


def test_first_training_of_a_thread_is_as_any_other() -> None:
    """Threads of a simulation take what comes: which site is somebody's first must not show."""
    rows = partition(load("breast-cancer").shared, 5, 1.0, 3)[0]
    task, before = replace(TASK, steps=3, sample_rate=0.1), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(max_workers=1) as thread:
            first, second = (
                flatten(
                    thread.submit(train, task, MLP.initial(3), rows, KeyStream.seeded(3, 1, 0, 1))
                    .result()
                    .delta
                )
                for _ in range(2)
            )
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(first, second)


def test_update_has_the_names_of_the_model() -> None:
    """Nothing of Opacus' wrapper shows in what is sent."""
    assert MLP.shapes.keys() == train(TASK, MLP.initial(1), ROWS, KeyStream.secret()).delta.keys()


def test_empty_samples_add_noise_and_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a sampling rate that draws nobody, every step still moves the model by pure noise."""
    noisy = []
    original = DPOptimizer.scale_grad

    def counted(self: DPOptimizer) -> None:
        noisy.append(sum(float(p.grad.abs().sum()) for p in self.params))
        original(self)

    monkeypatch.setattr(DPOptimizer, "scale_grad", counted)
    task = replace(TASK, sample_rate=1e-12, steps=7)
    result = train(task, MLP.initial(1), ROWS, KeyStream.seeded(1))
    assert 7 == len(noisy) == result.steps
    assert min(noisy) > 0


def test_rows_of_one_class_are_trained_on() -> None:
    """What comes of it is an update as any other."""
    one = ROWS.take(np.flatnonzero(ROWS.y == 0))
    delta = flatten(train(TASK, MLP.initial(1), one, KeyStream.secret()).delta)
    assert np.isfinite(delta).all()
    assert np.abs(delta).max() > 0


def test_noise_has_the_deviation_the_accountant_was_told() -> None:
    """Sigma times clip norm, divided by the expected sample, on every parameter of one step."""
    task = replace(TASK, steps=1, sample_rate=1e-12, clip_norm=0.5, noise_multiplier=2.0)
    seen = [
        flatten(train(task, MLP.initial(1), ROWS, KeyStream.seeded(seed)).delta)
        for seed in range(10)
    ]
    expected = 2.0 * 0.5 / (1e-12 * len(ROWS))
    assert np.std(np.concatenate(seen)) == pytest.approx(expected, rel=0.03)


def test_one_row_cannot_move_the_model_further_than_the_clip_norm() -> None:
    """Replacing a row by an absurd one changes the sum of gradients by at most twice the norm."""
    task = replace(TASK, steps=1, sample_rate=1.0, noise_multiplier=1e-9)
    absurd = Split(ROWS.x.copy(), ROWS.y.copy())
    absurd.x[0] *= 1e6
    base = MLP.initial(1)
    updates = [
        flatten(train(task, base, rows, KeyStream.seeded(1)).delta) for rows in (ROWS, absurd)
    ]
    moved = np.linalg.norm(updates[0] - updates[1]) * len(ROWS) / task.learning_rate
    assert 0 < moved <= 2 * task.clip_norm * 1.001


@pytest.mark.parametrize("ghost_from", [10**9, 0], ids=["hooks", "ghost"])
def test_model_that_overflows_for_one_row_tells_nothing_about_it(
    monkeypatch: pytest.MonkeyPatch, ghost_from: int
) -> None:
    """A server that sends such a model must not learn from a NaN that the row is there."""
    monkeypatch.setattr(training, "GHOST_FROM", ghost_from)
    model = family("logistic", 30, 2)
    base = {name: np.zeros(shape, np.float32) for name, shape in model.shapes.items()}
    # Finite as they are; what they add up to is not, for a row that is far off in both.
    base["layer1.weight"][:, :2] = [[3e38, 3e38], [-3e38, -3e38]]
    rows = Split(ROWS.x.copy(), ROWS.y.copy())
    rows.x[:, :2] = 0.1
    rows.x[0, :2] = 1.0
    others = rows.take(np.arange(1, len(rows)))
    task = replace(TASK, model=model, steps=1, sample_rate=1.0, noise_multiplier=1e-9)
    sums = []
    with np.errstate(over="ignore", invalid="ignore"):
        for there in (rows, others):
            result = train(task, base, there, KeyStream.seeded(1))
            sums.append(flatten(result.delta) * len(there))
    assert np.isfinite(sums).all()
    assert np.linalg.norm(sums[0] - sums[1]) <= task.clip_norm * 1.001


def test_key_stream_is_uniform_and_normal() -> None:
    """First moments of 200,000 numbers, and no repetition between calls."""
    stream = KeyStream.seeded(4)
    uniform, normal = stream.uniform(200_000), stream.normal((200_000,))
    assert 0 < uniform.min() < uniform.max() < 1
    assert uniform.mean() == pytest.approx(0.5, abs=0.003)
    assert (normal.mean(), normal.std()) == pytest.approx((0, 1), abs=0.01)
    assert not np.array_equal(stream.uniform(4), stream.uniform(4))


def test_key_stream_does_not_depend_on_how_much_is_asked_for_at_once() -> None:
    """Numbers are the key's, wherever a block of the implementation ends."""
    whole = KeyStream.seeded(4).uniform(100_001)
    stream = KeyStream.seeded(4)
    pieces = [stream.uniform(count) for count in (1, 0, 32_767, 32_768, 32_769, 1_696)]
    assert np.array_equal(whole, np.concatenate(pieces))
    words = (whole[:3] * 2.0**52 - 0.5).tolist()
    assert words == [391933822478502.0, 1795511303104179.0, 94328266432784.0]


def _message(base: Parameters, **changes: object) -> Message:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0
    config = ConfigRecord()
    config.update(
        {
            "model": "mlp",
            "features": 30,
            "classes": 2,
            "steps": 4,
            "learning-rate": 1.0,
            "sample-rate": 0.3,
            "clip-norm": 1.0,
            "noise-multiplier": 1.4,
            "server-round": 1,
            "simulation": True,
            "seed": 5,
            "repeat": 0,
            **changes,
        }
    )
    arrays = ArrayRecord.from_numpy_ndarrays(list(base.values()))
    named = ArrayRecord(dict(zip(base, arrays.values(), strict=True)))
    return Message(RecordDict({"arrays": named, "config": config}), 1, "train")


def _context(*, public: bool = True) -> Context:
    config = {
        "dataset": "breast-cancer",
        "partition-id": 0,
        "num-partitions": 5,
        "dirichlet-alpha": 1.0,
        "seed": 1,
        "public-data": public,
    }
    return Context(1, 1, config, RecordDict(), {})


def _delta(reply: Message) -> np.ndarray:
    return flatten({name: array.numpy() for name, array in reply.content["arrays"].items()})


def test_site_with_private_data_refuses_a_simulation() -> None:
    """A coordinator that dictates the seed could subtract the noise."""
    with pytest.raises(PermissionError, match="not public"):
        app(_message(MLP.initial(1)), _context(public=False))


def test_site_with_private_data_refuses_to_train_without_noise() -> None:
    """Whatever the server promises to add later: what is sent is seen first."""
    quiet = {"noise-multiplier": 0.0, "simulation": False}
    with pytest.raises(PermissionError, match="noise multiplier"):
        app(_message(MLP.initial(1), **quiet), _context(public=False))
    assert not app(_message(MLP.initial(1), **quiet), _context()).has_error()


@pytest.mark.parametrize(
    "change", [{"noise-multiplier": 1e-3}, {"clip-norm": 1e-44}, {"clip-norm": 1e30}], ids=str
)
def test_site_with_private_data_refuses_numbers_that_protect_nobody(
    change: dict[str, object],
) -> None:
    """Whatever program hands the application its tasks, Flower's own included."""
    with pytest.raises(PermissionError, match="not public"):
        app(_message(MLP.initial(1), simulation=False, **change), _context(public=False))


@pytest.mark.parametrize("change", [{"classes": 3}, {"features": 29}], ids=str)
def test_model_for_another_schema_is_refused_before_a_row_is_drawn(
    change: dict[str, int],
) -> None:
    """Which row is drawn must not decide whether a task fails."""
    model = family("logistic", **({"features": 30, "classes": 2} | change))
    message = _message(model.initial(1), model="logistic", simulation=False, **change)
    with pytest.raises(ValueError, match="inputs and classes"):
        app(message, _context(public=False))


def test_noise_on_private_data_is_never_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same order twice gives two updates, and nothing asks for a seeded stream."""
    monkeypatch.delattr(KeyStream, "seeded")
    message = _message(MLP.initial(1), simulation=False)
    first, second = (_delta(app(message, _context(public=False))) for _ in range(2))
    assert not np.allclose(first, second)


def test_site_does_not_send_exact_figures_about_private_rows() -> None:
    """Loss and accuracy leave a site in simulations only."""
    base = MLP.initial(1)
    simulated = app(_message(base), _context())
    private = app(_message(base, simulation=False), _context(public=False))
    assert {"num-examples", "steps", "loss", "accuracy"} == set(simulated.content["metrics"])
    assert {"num-examples", "steps"} == set(private.content["metrics"])


def test_repeated_round_draws_other_noise() -> None:
    """Two different updates under one key stream would cancel the noise."""
    base = MLP.initial(1)
    first, again = (app(_message(base, repeat=n), _context()) for n in (0, 1))
    assert not np.allclose(_delta(first), _delta(again))


def test_task_for_an_unknown_model_or_with_wrong_arrays_is_refused() -> None:
    """A site checks what it is sent, too."""
    with pytest.raises(KeyError):
        Order.of(_message(MLP.initial(1), model="gpt"))
    with pytest.raises(ValueError, match="layer2"):
        Order.of(_message(MLP.initial(1), model="logistic"))


@pytest.mark.parametrize(("kind", "cosine"), [("sign-flip", -1), ("scale", 1), ("noise", 0)])
def test_attackers_send_what_their_name_says(kind: str, cosine: float) -> None:
    """Direction and length of the poisoned update, compared with the honest one."""
    message = _message(MLP.initial(1))
    honest, poison = (
        _delta(app(message, _context())),
        _delta(attacker(kind, 10)(message, _context())),
    )  # type: ignore[arg-type]
    lengths = np.linalg.norm(poison), np.linalg.norm(honest)
    assert lengths[0] / lengths[1] == pytest.approx(10, rel=0.15)
    assert honest @ poison / lengths[0] / lengths[1] == pytest.approx(cosine, abs=0.15)


def test_label_flipper_teaches_the_opposite() -> None:
    """Its update makes the model worse on true labels than an honest one does."""
    base, data = MLP.initial(1), load("breast-cancer").test
    quiet = {"noise-multiplier": 1e-6, "steps": 20}
    message = _message(base, **quiet)

    def accuracy(reply: Message) -> float:
        after = {n: base[n] + a.numpy() for n, a in reply.content["arrays"].items()}
        return float(np.mean(MLP.logits(after, data.x).argmax(axis=1) == data.y))

    honest, poison = app(message, _context()), attacker("label-flip", 1)(message, _context())
    assert accuracy(poison) < 0.4 < 0.8 < accuracy(honest)


CENTRE = tuple(float(value) for value in load("breast-cancer").golden.x.mean(axis=0))


@pytest.mark.parametrize("name", ["logistic", "mlp", "mlp-96-96"])
def test_centred_training_is_that_of_rows_less_the_centre(name: str) -> None:
    """The model that comes back answers for rows as they are what was learned for the others."""
    model = family(name, 30, 2)
    task = replace(TASK, model=model)
    base = {n: values + np.float32(0.1) for n, values in model.initial(1).items()}
    less = Split((ROWS.x - np.array(CENTRE)).astype(np.float32), ROWS.y)
    moved = model.moved(base, np.array(CENTRE))
    assert np.allclose(model.logits(moved, less.x), model.logits(base, ROWS.x), atol=1e-5)
    centred = train(replace(task, centre=CENTRE), base, ROWS, KeyStream.seeded(1))
    by_hand = train(task, moved, less, KeyStream.seeded(1))
    after = {n: base[n] + centred.delta[n] for n in base}
    expected = {n: moved[n] + by_hand.delta[n] for n in base}
    scale = max(float(np.abs(v).max()) for v in expected.values())
    answers = model.logits(after, ROWS.x), model.logits(expected, less.x)
    assert np.allclose(*answers, atol=1e-3 * scale)
    assert centred.loss == pytest.approx(by_hand.loss, rel=1e-3)


def test_one_row_cannot_move_a_centred_model_further_either() -> None:
    """The bound holds where the noise is added: for the parameters of centred rows."""
    task = replace(TASK, steps=1, sample_rate=1.0, noise_multiplier=1e-9, centre=CENTRE)
    absurd = Split(ROWS.x.copy(), ROWS.y.copy())
    absurd.x[0] *= 1e3
    base = MLP.initial(1)
    ends = [
        flatten(
            MLP.moved({n: base[n] + values for n, values in result.delta.items()}, np.array(CENTRE))
        )
        for result in (train(task, base, rows, KeyStream.seeded(1)) for rows in (ROWS, absurd))
    ]
    moved = np.linalg.norm(ends[0] - ends[1]) * len(ROWS) / task.learning_rate
    assert 0 < moved <= 2 * task.clip_norm * 1.001


@pytest.mark.parametrize("centre", [[0.0] * 29, [0.0] * 29 + [float("nan")]])
def test_centre_that_is_no_row_is_refused(centre: list[float]) -> None:
    """Of another width, or not finite."""
    with pytest.raises(ValueError, match="centre"):
        Order.of(_message(MLP.initial(1), centre=centre))


def test_proximal_term_pulls_each_step_back_to_where_the_round_began() -> None:
    """Where nobody is drawn a step is pure noise, so the second one shows the pull exactly."""
    task, base = replace(TASK, sample_rate=1e-12, clip_norm=1e-12), MLP.initial(1)

    def moved(steps: int, proximal: float) -> np.ndarray:
        changed = replace(task, steps=steps, proximal=proximal)
        return flatten(train(changed, base, ROWS, KeyStream.seeded(1)).delta)

    first, free = moved(1, 0.0), moved(2, 0.0)
    assert np.array_equal(first, moved(1, 0.5))
    assert np.allclose(free - 0.5 * TASK.learning_rate * first, moved(2, 0.5), atol=1e-5)
    assert not np.allclose(free, moved(2, 0.5), atol=1e-3)
