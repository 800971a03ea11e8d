"""The simulated sites of a plan: ClientApps in this process, each with its share of the rows.

And what a site would do on the golden rows, for strategies that measure updates by it. Imports
PyTorch, which takes seconds: whoever asks machines of their own does without this module.
"""

from __future__ import annotations

from dataclasses import dataclass

from aegis.v1 import training_pb2
from aegis_learning.datasets import Dataset
from aegis_learning.parameters import Parameters
from aegis_participant.app import app as honest
from aegis_participant.attacks import Kind, attacker
from aegis_participant.randomness import KeyStream
from aegis_participant.training import Task, train
from aegis_server.training.flower import ClientApp, UserConfig
from aegis_server.training.noise import centre_of
from aegis_server.training.plans import dealt, participant_names

_KINDS: dict[int, Kind] = {
    training_pb2.ATTACK_KIND_SIGN_FLIP: "sign-flip",
    training_pb2.ATTACK_KIND_LABEL_FLIP: "label-flip",
    training_pb2.ATTACK_KIND_NOISE: "noise",
    training_pb2.ATTACK_KIND_SCALE: "scale",
    training_pb2.ATTACK_KIND_ALIE: "alie",
    training_pb2.ATTACK_KIND_IPM: "ipm",
}


@dataclass(frozen=True, slots=True)
class Site:
    """A participant as it was enrolled: `examples` is our count, never its claim."""

    name: str
    node_id: int
    examples: int
    app: ClientApp
    config: UserConfig


def sites_of(plan: training_pb2.RunPlan, data: Dataset) -> list[Site]:
    """Returns the plan's sites; node ids start at 1."""
    rows = dealt(plan, data)
    attacks = {attack.participant: attack for attack in plan.attacks}
    sites = []
    for index, (name, examples) in enumerate(rows.items()):
        attack = attacks.get(name)
        sites.append(
            Site(
                name=name,
                node_id=index + 1,
                examples=examples,
                app=attacker(_KINDS[attack.kind], attack.scale) if attack else honest,
                config={
                    "dataset": plan.dataset,
                    "partition-id": index,
                    "num-partitions": plan.participants,
                    "dirichlet-alpha": plan.dirichlet_alpha,
                    "seed": plan.seed,
                    "public-data": data.public,
                    "shared-rows": plan.simulation,
                    "colluders": _colluders(attack, plan) if attack else "",
                },
            )
        )
    return sites


def _colluders(attack: training_pb2.Attack, plan: training_pb2.RunPlan) -> str:
    """Returns the partitions of all that attack in the same way."""
    same = {a.participant for a in plan.attacks if (a.kind, a.scale) == (attack.kind, attack.scale)}
    names = participant_names(plan)
    return ",".join(str(index) for index, name in enumerate(names) if name in same)


def root_update(plan: training_pb2.RunPlan, model: Parameters, data: Dataset) -> Parameters:
    """Returns the update of the golden rows: the plan's training, on all of them in every step.

    Without noise, because they are public (a plan with other golden rows is refused), so it is the
    same whenever it is repeated.
    """
    task = Task(
        model=data.family(plan.model),
        steps=plan.local_steps,
        learning_rate=plan.learning_rate,
        sample_rate=1.0,
        clip_norm=plan.clip_norm,
        noise_multiplier=0.0,
        centre=centre_of(plan, data),
    )
    return train(task, model, data.golden, KeyStream.secret()).delta
