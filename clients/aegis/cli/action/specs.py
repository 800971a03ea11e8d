"""What a command line wants done, as an ActionSpec."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from aegis.cli.action.calls import pairs
from aegis.cli.durations import duration
from aegis.cli.session import fail
from aegis.v1 import envelope_pb2

Spec = envelope_pb2.ActionSpec


class Verb(StrEnum):
    """What can be done."""

    restart_pod = "restart-pod"
    restart_rollout = "restart-rollout"
    scale = "scale"
    rollback = "rollback"
    cordon = "cordon"
    uncordon = "uncordon"


class OnFailure(StrEnum):
    """What follows when it did not help."""

    none = "none"
    compensate = "compensate"
    escalate = "escalate"


_NODES = (Verb.cordon, Verb.uncordon)
# A query may hold colons itself, so its end is looked for from behind.
_METRIC = re.compile(r"(?P<query>.+):(?P<better>lower|higher)(?::(?P<tolerance>\d+(?:\.\d+)?))?")

VerbArgument = Annotated[Verb, typer.Argument(help="What to do.", show_default=False)]
NameArgument = Annotated[str, typer.Argument(help="Pod (restart-pod), node (cordon), deployment.")]
NamespaceOption = Annotated[
    str, typer.Option("--namespace", "-n", help="Of the pod or deployment.", show_default=False)
]
ClusterOption = Annotated[str, typer.Option(help="As the executor names it.")]
ReplicasOption = Annotated[int | None, typer.Option(min=0, max=10_000, help="For scale.")]
ToOption = Annotated[
    str, typer.Option(help="For rollback: a pod-template-hash; else the one before.")
]
GraceOption = Annotated[
    int | None, typer.Option(min=0, max=3600, help="For restart-pod: seconds it gets to end.")
]
UidOption = Annotated[str, typer.Option(help="Refuse when the object was replaced.")]
IncidentOption = Annotated[str, typer.Option(help="The trouble it is for; attempts count by it.")]
OnFailureOption = Annotated[
    OnFailure | None, typer.Option(help="When it did not help; else a person is called.")
]
StabiliseOption = Annotated[str, typer.Option(help="Judge nothing before, e.g. 30s.")]
WindowOption = Annotated[str, typer.Option(help="Not healed by then is ineffective, e.g. 10m.")]
SuccessesOption = Annotated[
    int, typer.Option(min=0, max=100, help="Good looks in a row; 0: as the executor's.")
]
AlertOption = Annotated[
    list[str] | None,
    typer.Option("--alert", help="LABEL=VALUE,… of an alert that must be gone; repeatable."),
]
LookBackOption = Annotated[str, typer.Option(help="How far those alerts look back, e.g. 10m.")]
MetricOption = Annotated[
    list[str] | None,
    typer.Option(
        "--metric", help="QUERY:lower|higher:SHARE, not worse than before by more; repeatable."
    ),
]


@dataclass(frozen=True, slots=True)
class Watched:
    """The options that say how to tell whether it helped."""

    on_failure: OnFailure | None = None
    stabilise: str = ""
    window: str = ""
    successes: int = 0
    alerts: list[str] | None = None
    look_back: str = ""
    metrics: list[str] | None = None

    def verification(self) -> Spec.Verification | None:
        """Returns it, or None where nothing was said and the executor's defaults hold."""
        wanted = Spec.Verification(successes=self.successes)
        if self.on_failure is not None:
            number = Spec.Verification.OnFailure.Value(f"ON_FAILURE_{self.on_failure.upper()}")
            wanted.on_failure = number
        if self.stabilise:
            wanted.stabilise.CopyFrom(duration(self.stabilise, "--stabilise"))
        if self.window:
            wanted.window.CopyFrom(duration(self.window, "--window"))
        wanted.alerts.extend(self._alert(text) for text in self.alerts or [])
        wanted.metrics.extend(_metric(text) for text in self.metrics or [])
        return wanted if wanted.ByteSize() else None

    def _alert(self, text: str) -> Spec.Verification.AlertProbe:
        probe = Spec.Verification.AlertProbe(labels=pairs(text.split(","), "--alert"))
        if self.look_back:
            probe.look_back.CopyFrom(duration(self.look_back, "--look-back"))
        return probe


def spec_of(
    verb: Verb,
    name: str,
    *,
    namespace: str,
    cluster: str,
    replicas: int | None,
    to: str,
    grace: int | None,
    uid: str,
    incident: str,
    watched: Watched,
) -> Spec:
    """Returns the spec of a command line; ends the command where that makes no sense."""
    if (verb in _NODES) == bool(namespace):
        if verb in _NODES:
            fail(f"nodes have no namespace, {verb} needs none", "leave --namespace out")
        fail(f"{verb} of what namespace?", "add --namespace NAME")
    if (verb is Verb.scale) != (replicas is not None):
        fail("scale needs --replicas, and nothing else takes them", "say how many there shall be")
    spec = Spec(
        target=Spec.Target(cluster=cluster, namespace=namespace, name=name, uid=uid),
        incident_id=incident,
    )
    _set_action(spec, verb, replicas=replicas or 0, to=to, grace=grace)
    if (verification := watched.verification()) is not None:
        spec.verification.CopyFrom(verification)
    return spec


def _set_action(spec: Spec, verb: Verb, *, replicas: int, to: str, grace: int | None) -> None:
    match verb:
        case Verb.restart_pod:
            spec.restart_pod.CopyFrom(Spec.RestartPod(grace_seconds=grace))
        case Verb.restart_rollout:
            spec.restart_rollout.SetInParent()
        case Verb.scale:
            spec.scale_deployment.CopyFrom(Spec.ScaleDeployment(replicas=replicas))
        case Verb.rollback:
            spec.rollback_deployment.CopyFrom(Spec.RollbackDeployment(pod_template_hash=to))
        case Verb.cordon:
            spec.cordon_node.SetInParent()
        case Verb.uncordon:
            spec.uncordon_node.SetInParent()


def _metric(text: str) -> Spec.Verification.MetricProbe:
    found = _METRIC.fullmatch(text)
    if found is None:
        fail(f"--metric {text!r} is no probe", "write QUERY:lower:0.1 or QUERY:higher:0.1")
    return Spec.Verification.MetricProbe(
        query=found["query"],
        better=Spec.Verification.MetricProbe.Better.Value(f"BETTER_{found['better'].upper()}"),
        tolerance=float(found["tolerance"] or 0),
    )
