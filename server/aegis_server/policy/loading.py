"""From stored lines to an engine: by what changed where that is enough, else all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aegis.serving.database import Connection
from aegis_policy import Engine, PolicyError, read_rules, to_csv
from aegis_policy.models import read_model
from aegis_server.policy import store
from aegis_server.policy.places import Placed, Step
from aegis_server.policy.snapshot import Snapshot
from aegis_server.policy.store import Head, Policy, Revision, StoredPolicyBroken


def engine_at(placed: Sequence[Placed], model_conf: str) -> Engine:
    """Builds an engine that knows its lines by their places; raises `PolicyError`."""
    csv = to_csv(line for _, line in placed)
    rules = read_rules(csv, read_model(model_conf or None))
    return Engine(rules, places=[place for place, _ in placed])


async def load(connection: Connection, head: Head, mine: Snapshot | None) -> Snapshot:
    """Returns the revision at the head, from an older one where that can be.

    Raises `StoredPolicyBroken` when the lines do not have their digest, and `PolicyError` when they
    do not parse here.
    """
    if mine is not None and mine.engine.compiled and 0 < mine.revision < head.revision:
        revision = await store.read_revision(connection, head.revision)
        step = await store.delta(connection, mine.revision, head.revision)
        if revision is not None and revision.digest == head.digest:
            engine = await asyncio.to_thread(_stepped, mine.engine, revision, step)
            if engine is not None:
                return Snapshot(head.revision, head.digest, engine)
    policy = await store.read_placed(connection, head.revision)
    if policy is None or policy.revision.digest != head.digest:
        raise StoredPolicyBroken(f"revision {head.revision} is not what the head says")
    return Snapshot(head.revision, head.digest, await asyncio.to_thread(_whole, policy))


def _whole(policy: Policy) -> Engine:
    return engine_at(policy.placed, policy.revision.model_conf)


def _stepped(engine: Engine, revision: Revision, step: Step) -> Engine | None:
    """Returns the engine one step on, or None if that is not the revision it should be.

    So it is when the database was restored under our feet, when a place is not there, or when the
    model is another one: then everything is read, and what is wrong gets its proper name.
    """
    try:
        if read_model(revision.model_conf or None).digest != engine.model.digest:
            return None
        stepped = engine.updated(*step)
    except (PolicyError, KeyError):
        return None
    lines = (line for _, line in stepped.lines())
    digest = store.chained_digest(revision.prev_digest, lines, revision.model_conf)
    return stepped if digest == revision.digest else None
