"""A mean of updates, and when each round was over."""

import time

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

from aegis_learning.datasets import load

app = ServerApp()


@app.main()
def main(grid, context):
    """Trains, and prints `ROUND number seconds answers` for each round."""
    config = context.run_config
    family = load("breast-cancer").family(config["model"])
    model = family.initial(1)
    nodes = []
    while len(nodes) < config["sites"]:
        nodes = sorted(grid.get_node_ids())
        time.sleep(0.2)
    for number in range(1, config["num-server-rounds"] + 1):
        began = time.monotonic()
        content = RecordDict(
            {
                "arrays": ArrayRecord({name: Array(values) for name, values in model.items()}),
                "config": order(config, family, number),
            }
        )
        messages = [Message(content, node, "train", group_id=str(number)) for node in nodes]
        replies = [r for r in grid.send_and_receive(messages, timeout=300) if not r.has_error()]
        updates = [reply.content["arrays"] for reply in replies]
        for name in model:
            model[name] = model[name] + np.mean([u[name].numpy() for u in updates], axis=0)
        print(f"ROUND {number} {time.monotonic() - began:.3f} {len(replies)}", flush=True)


def order(config, family, number):
    """Returns what a site of Aegis is told."""
    return ConfigRecord(
        {
            "model": config["model"],
            "features": family.features,
            "classes": family.classes,
            "steps": config["local-steps"],
            "learning-rate": 0.5,
            "sample-rate": 0.3,
            "clip-norm": 0.5,
            "noise-multiplier": config["noise-multiplier"],
            "proximal": 0.0,
            "simulation": False,
            "seed": 0,
            "repeat": 0,
            "server-round": number,
        }
    )
