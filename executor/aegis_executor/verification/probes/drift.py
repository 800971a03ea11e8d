"""Is the object still as we left it?

If somebody else changed it since, then neither its health nor its illness says anything about our
change, and nothing of ours may be taken back over theirs.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from aegis_executor.catalogue.base import ACTION_ID, Object
from aegis_executor.verification.judgement import Finding, Outcome

PROBE = "drift"


@dataclass(frozen=True, slots=True)
class Mark:
    """What an object is recognised by; what is not known of it is empty or zero."""

    uid: str = ""
    generation: int = 0
    action_id: str = ""
    spec_sha256: str = ""


def mark_of(found: Object | None) -> Mark:
    """Returns the mark of a live object; that of nothing is empty."""
    if found is None:
        return Mark()
    metadata, spec = found["metadata"], found.get("spec", {})
    if found.get("kind") == "Node":
        # Controllers write taints and addresses into a node's spec all day long.
        spec = {"unschedulable": bool(spec.get("unschedulable"))}
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
    return Mark(
        uid=metadata["uid"],
        generation=int(metadata.get("generation", 0)),
        action_id=(metadata.get("annotations") or {}).get(ACTION_ID, ""),
        spec_sha256=digest,
    )


def drift(now: Mark, wrote: Mark, *, before_action_id: str = "") -> Finding:
    """Compares what is there with what we wrote; `before_action_id` marked it before us."""
    differs = _difference(now, wrote, before_action_id)
    if differs:
        told = f"somebody else changed it: {differs}"
        return Finding(PROBE, Outcome.DRIFTED, told, reason="TARGET_CHANGED")
    return Finding(PROBE, Outcome.GOOD, "as we left it")


def _difference(now: Mark, wrote: Mark, before_action_id: str) -> str:
    if not wrote.uid:
        return ""
    if not now.uid:
        return "it is gone"
    if now.uid != wrote.uid:
        return "it was replaced"
    if wrote.generation and now.generation != wrote.generation:
        return f"generation {now.generation}, not {wrote.generation}"
    if now.action_id not in ("", wrote.action_id, before_action_id):
        return f"action {now.action_id} was here"
    if wrote.spec_sha256 and now.spec_sha256 != wrote.spec_sha256:
        return "its spec is another"
    return ""
