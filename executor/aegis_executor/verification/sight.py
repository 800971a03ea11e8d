"""What verification sees of an object: itself, what it belongs to, and the pods that do the work.

A pod that was evicted is gone, and its successor has another name. So where its workload is found
is remembered before the change (`Anchor`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aegis_executor.catalogue.base import Kind, Object, Place, Remedy, Seen
from aegis_executor.reading import Cluster


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where the workload of a pod is found once the pod is gone; empty for all others."""

    deployment: str = ""
    controller_uid: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def anchor_of(seen: Seen, place: Place) -> Anchor:
    """Returns what to remember of what was seen before the change."""
    if place.kind is not Kind.POD or seen.live is None:
        return Anchor()
    owner = seen.owner["metadata"]["name"] if seen.owner is not None else ""
    labels = seen.live["metadata"].get("labels") or {}
    return Anchor(owner, _controller(seen.live), dict(labels))


def workload_of(seen: Seen, place: Place) -> Object | None:
    """Returns the deployment something is or belongs to."""
    return seen.live if place.kind is Kind.DEPLOYMENT else seen.owner


def pinned_of(seen: Seen, place: Place) -> Object | None:
    """Returns the object whose spec must stay as we left it: the pod itself is to go."""
    return seen.owner if place.kind is Kind.POD else seen.live


async def look(cluster: Cluster, remedy: Remedy, anchor: Anchor) -> Seen:
    """Reads everything there is to see now; raises what the port raises."""
    place = remedy.place
    match place.kind:
        case Kind.NODE:
            return Seen(await cluster.node(place.name))
        case Kind.DEPLOYMENT:
            live = await cluster.deployment(place.namespace, place.name)
            replica_sets, pods = await _workload(cluster, live)
            return Seen(live, replica_sets=replica_sets, pods=pods)
        case Kind.POD:
            return await _pod(cluster, place, anchor)


async def _pod(cluster: Cluster, place: Place, anchor: Anchor) -> Seen:
    live = await cluster.pod(place.namespace, place.name)
    if anchor.deployment:
        owner = await cluster.deployment(place.namespace, anchor.deployment)
        replica_sets, pods = await _workload(cluster, owner)
        return Seen(live, replica_sets=replica_sets, pods=pods, owner=owner)
    if not anchor.labels:
        return Seen(live)
    found = await cluster.pods(place.namespace, anchor.labels)
    return Seen(live, pods=[pod for pod in found if _controller(pod) == anchor.controller_uid])


async def _workload(
    cluster: Cluster, deployment: Object | None
) -> tuple[Sequence[Object], Sequence[Object]]:
    if deployment is None:
        return (), ()
    metadata = deployment["metadata"]
    labels = deployment["spec"]["selector"].get("matchLabels", {})
    found = await cluster.replica_sets(metadata["namespace"], labels)
    owned = [each for each in found if _controller(each) == metadata["uid"]]
    uids = {each["metadata"]["uid"] for each in owned}
    pods = await cluster.pods(metadata["namespace"], labels)
    return owned, [pod for pod in pods if _controller(pod) in uids]


def _controller(thing: Object) -> str:
    owners: Sequence[Mapping[str, Any]] = thing["metadata"].get("ownerReferences") or ()
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), "")
