"""Trains as Aegis' own application does; what else it does is said in a folder of its site.

diary    it writes there: RUN ROUND begun, RUN ROUND done
hold     while this file is there, it goes no further
poison   what it sends instead: nan, shape, missing, type, pickle, claim, or same NUMBER
"""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp import ClientApp

from aegis_participant.app import app as honest

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Trains, unless the folder says otherwise."""
    folder = Path(str(context.node_config["folder"]))
    line = f"{context.run_id} {message.content['config']['server-round']}"
    _write(folder, f"{line} begun")
    while (folder / "hold").exists():
        time.sleep(0.01)
    reply = honest(message, context)
    if (folder / "poison").exists():
        _poison(reply, *(folder / "poison").read_text().split())
    _write(folder, f"{line} done")
    return reply


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
