"""Logistic regression with DP-SGD; what else it does is said in a folder of its site.

diary    it writes there: RUN ROUND begun, RUN ROUND held, RUN ROUND done
hold     while this file is there, it goes no further
poison   what it sends instead: nan, shape, missing, type, pickle, claim, same NUMBER, or
         flip NUMBER
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from aegis_participant.tables import read_rows

Train = Callable[[Message, Context], Message]


def tried(train: Train) -> ClientApp:
    """Returns the application that trains so, with a diary, a hold and a poison."""
    app = ClientApp()

    @app.train()
    def answer(message: Message, context: Context) -> Message:
        folder = Path(str(context.node_config["folder"]))
        line = f"{context.run_id} {message.content['config']['server-round']}"
        _write(folder, f"{line} begun")
        held = False
        while (folder / "hold").exists():
            if not held:
                _write(folder, f"{line} held")
            held = True
            time.sleep(0.01)
        reply = train(message, context)
        if (folder / "poison").exists():
            _poison(reply, *(folder / "poison").read_text().split())
        _write(folder, f"{line} done")
        return reply

    return app


def logistic(message: Message, context: Context) -> Message:
    """DP-SGD for logistic regression, in numpy: starts in half a second."""
    own, config = context.node_config, message.content["config"]
    rows = read_rows(Path(str(own["file"])), Path(str(own["schema"])))
    arrays = message.content["arrays"]
    weight = arrays["layer1.weight"].numpy().astype(float)
    bias = arrays["layer1.bias"].numpy().astype(float)
    before, random = (weight.copy(), bias.copy()), np.random.default_rng()
    clip, rate = float(config["clip-norm"]), float(config["sample-rate"])
    pace = float(config["learning-rate"]) / (rate * len(rows))
    for _ in range(int(config["steps"])):
        drawn = random.random(len(rows)) < rate
        x, y = rows.x[drawn], rows.y[drawn]
        odds = np.exp(x @ weight.T + bias)
        slope = odds / odds.sum(axis=1, keepdims=True) - np.eye(len(bias))[y]
        norms = np.linalg.norm(slope, axis=1) * np.sqrt((x**2).sum(axis=1) + 1)
        slope *= np.minimum(1, clip / np.maximum(norms, 1e-12))[:, None]
        deviation = float(config["noise-multiplier"]) * clip
        weight -= pace * (slope.T @ x + random.normal(0, deviation, weight.shape))
        bias -= pace * (slope.sum(axis=0) + random.normal(0, deviation, bias.shape))
    update = {"layer1.weight": weight - before[0], "layer1.bias": bias - before[1]}
    metrics = MetricRecord({"num-examples": len(rows), "steps": int(config["steps"])})
    content = RecordDict({"arrays": _record(update), "metrics": metrics})
    return Message(content, reply_to=message)


app = tried(logistic)


def _record(values: Mapping[str, np.ndarray]) -> ArrayRecord:
    arrays = {name: Array(each.astype("<f4")) for name, each in values.items()}
    return ArrayRecord(arrays)


def _write(folder: Path, line: str) -> None:
    with (folder / "diary").open("a") as diary:
        diary.write(line + "\n")


def _poison(reply: Message, kind: str, number: str = "0") -> None:
    content = reply.content
    if kind == "claim":
        content.metric_records["metrics"]["num-examples"] = 1_000_000_000
        return
    values = {name: array.numpy() for name, array in content.array_records["arrays"].items()}
    first = next(iter(values))
    if kind == "same":
        content.metric_records["metrics"]["num-examples"] = 1_000_000_000
        values = {name: np.full_like(each, float(number)) for name, each in values.items()}
    elif kind == "flip":
        values = {name: -float(number) * each for name, each in values.items()}
    elif kind == "nan":
        values[first].flat[0] = np.nan
    elif kind == "shape":
        values[first] = values[first][:-1]
    elif kind == "missing":
        del values[first]
    elif kind == "type":
        values = {name: each.astype("<f8") for name, each in values.items()}
    arrays = {name: Array(np.ascontiguousarray(each)) for name, each in values.items()}
    if kind == "pickle":
        arrays[first].data = pickle.dumps(values[first])
    content["arrays"] = ArrayRecord(arrays)
