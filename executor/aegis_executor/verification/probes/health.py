"""Is the object well, and is the cluster done with it?

The remedy says whether its change has settled. That alone would be believed too early: straight
after a patch every count still fits the old generation, and a deployment can be healthy while it is
still being remedied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aegis_executor.catalogue.base import Object, Remedy, Seen
from aegis_executor.verification.judgement import Finding, Outcome

PROBE = "health"
RESTARTS = "restarts"
_OVER = frozenset({"Succeeded", "Failed"})


def health(remedy: Remedy, seen: Seen, workload: Object | None) -> Finding:
    """Judges the object; `workload` is the deployment it is or belongs to, if any."""
    if workload is not None and (stuck := _stuck(workload)):
        return Finding(PROBE, Outcome.FAILED, stuck)
    if not remedy.settled(seen):
        return Finding(PROBE, Outcome.WAITING, "the change has not settled")
    if workload is not None and (busy := _still_going(workload)):
        return Finding(PROBE, Outcome.WAITING, f"still under way: {busy}")
    ill = [pod["metadata"]["name"] for pod in staying(seen.pods) if not _ready(pod)]
    if ill:
        told = f"{len(ill)} of {len(staying(seen.pods))} pods not ready: {', '.join(ill[:3])}"
        return Finding(PROBE, Outcome.WAITING, told)
    return Finding(PROBE, Outcome.GOOD, "settled and ready")


def restarts(now: Mapping[str, int], before: Mapping[str, int] | None) -> Finding:
    """Judges restart counts by pod uid; `before` is None when nobody counted.

    A pod that was not there before starts from zero.
    """
    if before is None:
        return Finding(RESTARTS, Outcome.GOOD, "counted for the first time")
    risen = sum(max(0, count - before.get(uid, 0)) for uid, count in now.items())
    if risen:
        return Finding(RESTARTS, Outcome.FAILED, f"{risen} more since the last look")
    return Finding(RESTARTS, Outcome.GOOD, "none more")


def restarts_of(pods: Sequence[Object]) -> dict[str, int]:
    """Returns how often the containers of each pod were started again, by uid."""
    return {
        pod["metadata"]["uid"]: sum(
            int(status.get("restartCount", 0))
            for status in (pod.get("status", {}).get("containerStatuses") or ())
        )
        for pod in staying(pods)
    }


def staying(pods: Sequence[Object]) -> list[Object]:
    """Returns the pods that are to run: neither on their way out nor over."""
    return [
        pod
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
        and pod.get("status", {}).get("phase") not in _OVER
    ]


def _ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _stuck(deployment: Object) -> str:
    for condition in deployment.get("status", {}).get("conditions") or ():
        if condition.get("reason") == "ProgressDeadlineExceeded":
            return "the rollout cannot finish: ProgressDeadlineExceeded"
    return ""


def _still_going(deployment: Object) -> str:
    status = deployment.get("status", {})
    observed = int(status.get("observedGeneration", 0))
    generation = int(deployment["metadata"].get("generation", 0))
    if observed < generation:
        return f"generation {generation}, and the controller has seen {observed}"
    wanted = int(deployment["spec"].get("replicas", 1))
    for name in ("updatedReplicas", "replicas", "availableReplicas"):
        if (count := int(status.get(name, 0))) != wanted:
            return f"{name} is {count} of {wanted}"
    return ""
