"""A model in a folder, for people who have no Aegis."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from aegis.cli.session import as_dict
from aegis.v1 import model_pb2

MODEL, LINEAGE, README = "model.safetensors", "lineage.json", "README.md"

_README = """\
# Model {short}

Round {round} of {run}, trained on {dataset} ({family}).

| | |
|---|---|
| SHA-256 of `{model}` | `{sha256}` |
| accuracy, loss on the test rows | {accuracy:.4f}, {loss:.4f} |
| epsilon | {epsilon:.3f} |
| made | {made} by {actor}, Aegis {code} |
| allowed by | rule {rule}, policy revision {revision} |

`{lineage}` has the models before it, newest first, with the updates each was made of and what the
review said of them.

With PyTorch and safetensors alone:

```python
from collections import OrderedDict
from safetensors.torch import load_file
from torch import nn
net = nn.Sequential(OrderedDict({layers}))
net.load_state_dict(load_file("{model}"))
```

With Aegis:

```python
from aegis_learning.models import family
net = family("{family}", features={features}, classes={classes}).torch_module()
```

Columns are scaled as the schema of the data set says; the answer is one logit for each class.

| tensor | type | shape |
|---|---|---|
{tensors}
"""


def describe(folder: Path, models: Sequence[model_pb2.Model]) -> None:
    """Writes lineage and readme beside the model's file; `models` is the chain, newest first."""
    newest = models[0]
    tensors = tensors_of(folder / MODEL)
    widths = _widths(tensors)
    lineage = json.dumps([as_dict(model) for model in models], indent=2) + "\n"
    (folder / LINEAGE).write_text(lineage)
    text = _README.format(
        short=newest.model_id[:12],
        round=newest.round,
        run=newest.run_id,
        dataset=newest.dataset,
        family=newest.family,
        sha256=newest.model_id,
        accuracy=newest.accuracy,
        loss=newest.loss,
        epsilon=newest.epsilon,
        made=newest.create_time.ToJsonString(),
        actor=newest.actor,
        code=newest.code_version,
        rule=newest.rule_id,
        revision=newest.policy_revision,
        model=MODEL,
        lineage=LINEAGE,
        layers=_layers(widths),
        features=widths[0],
        classes=widths[-1],
        tensors="\n".join(f"| {n} | {kind} | {shape} |" for n, (kind, shape) in tensors.items()),
    )
    (folder / README).write_text(text)


def tensors_of(file: Path) -> dict[str, tuple[str, list[int]]]:
    """Returns type and shape of each tensor by name, read from the head of a safetensors file."""
    with file.open("rb") as source:
        head = json.loads(source.read(int.from_bytes(source.read(8), "little")))
    return {
        name: (each["dtype"], each["shape"])
        for name, each in sorted(head.items())
        if name != "__metadata__"
    }


def _widths(tensors: dict[str, tuple[str, list[int]]]) -> list[int]:
    """Returns the widths of dense layers, input first, from the shapes of their weights."""
    weights: list[list[int]] = []
    while (name := f"layer{len(weights) + 1}.weight") in tensors:
        weights.append(tensors[name][1])
    return [weights[0][1], *(each[0] for each in weights)]


def _layers(widths: list[int]) -> str:
    layers = []
    last = len(widths) - 1
    for number in range(1, last + 1):
        layers.append(f"layer{number}=nn.Linear({widths[number - 1]}, {widths[number]})")
        if number < last:
            layers.append(f"tanh{number}=nn.Tanh()")
    return ", ".join(layers)
