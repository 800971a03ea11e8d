"""What a remedy has to see, read from the cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from aegis.errors import Aborted
from aegis_executor.catalogue.base import Change, Kind, Need, Object, Place, Remedy, Seen
from aegis_executor.catalogue.objects import (
    HASH_LABEL,
    alike,
    controller_of,
    labels_of,
)

# What code that reads an object raises when the object is not as the API says.
ODD = (AttributeError, LookupError, TypeError, ValueError)


class Cluster(Protocol):
    """What is needed of `kubernetes.Kubernetes`, which says what each raises."""

    async def pod(self, namespace: str, name: str) -> Object | None:
        """Reads a pod."""

    async def pods(self, namespace: str, labels: Mapping[str, str]) -> Sequence[Object]:
        """Reads the pods that carry these labels."""

    async def deployment(self, namespace: str, name: str) -> Object | None:
        """Reads a deployment."""

    async def replica_sets(self, namespace: str, labels: Mapping[str, str]) -> Sequence[Object]:
        """Reads the ReplicaSets that carry these labels."""

    async def budgets(self, namespace: str) -> Sequence[Object]:
        """Reads the disruption budgets."""

    async def autoscalers(self, namespace: str) -> Sequence[Object]:
        """Reads the horizontal autoscalers."""

    async def node(self, name: str) -> Object | None:
        """Reads a node."""

    async def apply(self, change: Change) -> str:
        """Makes one change; returns the Audit-Id of the API server's record of it."""

    async def dry_run(self, change: Change) -> tuple[Object | None, list[str]]:
        """Tries a change; returns the object as it would be (None when gone) and warnings."""

    async def record_event(
        self, place: Place, uid: str, reason: str, message: str, action_id: str
    ) -> None:
        """Tells people who look at the object; never raises."""


async def read_live(cluster: Cluster, place: Place) -> Object | None:
    """Returns the object itself."""
    match place.kind:
        case Kind.POD:
            return await cluster.pod(place.namespace, place.name)
        case Kind.DEPLOYMENT:
            return await cluster.deployment(place.namespace, place.name)
        case Kind.NODE:
            return await cluster.node(place.name)


async def see(cluster: Cluster, remedy: Remedy) -> Seen:
    """Returns what the remedy needs before it is planned.

    Raises `Aborted` (TARGET_CHANGED) for a pod whose owner is not found.
    """
    place, needs = remedy.place, remedy.needs
    live = await read_live(cluster, place)
    if live is None:
        return Seen(None)
    replica_sets: Sequence[Object] = ()
    owner: Object | None = None
    pods: Sequence[Object] = ()
    if Need.REPLICA_SETS in needs:
        labels = live["spec"]["selector"].get("matchLabels", {})
        replica_sets = await cluster.replica_sets(place.namespace, labels)
    if Need.OWNER in needs:
        owner = await _deployment_of(cluster, place.namespace, live)
    if Need.PODS in needs:
        pods = await _pods_like(cluster, place.namespace, live)
    return Seen(
        live=live,
        replica_sets=replica_sets,
        pods=pods,
        budgets=await cluster.budgets(place.namespace) if Need.BUDGETS in needs else (),
        autoscalers=await cluster.autoscalers(place.namespace) if Need.AUTOSCALERS in needs else (),
        owner=owner,
    )


async def _deployment_of(cluster: Cluster, namespace: str, pod: Object) -> Object | None:
    """Returns the deployment a pod belongs to; None where that is not one.

    Its marks protect the pod too. Raises `Aborted` (TARGET_CHANGED) where somebody is above the pod
    who is not found: a veto that was not read is not a veto that is not there.
    """
    controller = controller_of(pod)
    if controller.get("kind") != "ReplicaSet":
        return None
    template_hash = labels_of(pod).get(HASH_LABEL)
    labels = {HASH_LABEL: template_hash} if template_hash else {}
    for replica_set in await cluster.replica_sets(namespace, labels):
        if replica_set["metadata"]["uid"] != controller["uid"]:
            continue
        above = controller_of(replica_set)
        if above.get("kind") != "Deployment":
            return None
        found = await cluster.deployment(namespace, above["name"])
        if found is not None and found["metadata"]["uid"] == above["uid"]:
            return found
        raise Aborted("TARGET_CHANGED", f"the pod's deployment {above['name']} is not there")
    raise Aborted("TARGET_CHANGED", f"the pod's ReplicaSet {controller.get('name')} is not there")


async def _pods_like(cluster: Cluster, namespace: str, pod: Object) -> Sequence[Object]:
    labels = alike(pod)
    # Without a label of its own nothing narrows the list, and nothing else is known to be like it.
    return await cluster.pods(namespace, labels) if labels else [pod]
