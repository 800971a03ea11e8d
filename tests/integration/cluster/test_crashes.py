"""Writes whose answer is lost: the port says "not known", and trying again is harmless."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from tests.targets import Target

from aegis_executor.catalogue.base import Change
from aegis_executor.kubernetes import (
    ClusterRefused,
    ClusterSilent,
    ClusterUnreachable,
    Kubernetes,
    Reach,
    configuration,
)

from .test_port import deleted, evicted, marked, scaled

# What goes wrong, and whether the change takes effect all the same.
FAULTS: dict[str, tuple[dict[str, Any], bool]] = {
    "reset": ({"where": "reset"}, False),
    "500": ({"where": "instead", "code": 500}, False),
    "503": ({"where": "instead", "code": 503}, False),
    "504": ({"where": "instead", "code": 504}, False),
    "lost": ({"where": "lost"}, True),
    "cut": ({"where": "cut"}, True),
    "slow answer": ({"where": "after", "seconds": 1.5}, True),
}


async def some_change(target: Target, verb: str) -> Change:
    if verb in ("evict", "delete"):
        pod = await target.pod()
        return evicted(pod) if verb == "evict" else deleted(pod)
    web = await target.still()
    return scaled(web, 2) if verb == "scale" else marked(web)


@pytest.mark.parametrize("verb", ["evict", "delete", "scale", "patch"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_lost_answer_is_not_known_and_the_retry_acts_once(
    target: Target, verb: str, fault: str
):
    """Whatever happened, sending the same change again leaves exactly one effect."""
    told, took_effect = FAULTS[fault]
    change = await some_change(target, verb)
    await target.fault(**told)
    async with target.port(seconds=0.5, delete_pods=True) as port:
        with pytest.raises(ClusterSilent):
            await port.apply(change)
    name = change.place.name
    assert len(await target.effects(name)) == int(took_effect)
    async with target.port(delete_pods=True) as port:
        try:
            await port.apply(change)
            refused = 0
        except ClusterRefused as error:
            refused = error.code
    assert len(await target.effects(name)) == 1
    # A pod on its way out may be told so again; a version that was used up is a conflict.
    assert refused in ((0, 404, 409) if took_effect else (0,))


@pytest.mark.parametrize("verb", ["evict", "delete", "scale", "patch"])
async def test_slow_write_takes_effect_after_we_gave_up(target: Target, verb: str):
    """A time-out is no "no": the change arrives later, and the pins decide what the retry does."""
    change = await some_change(target, verb)
    await target.fault("before", seconds=1.0)
    async with target.port(seconds=0.3, delete_pods=True) as port:
        with pytest.raises(ClusterSilent):
            await port.apply(change)
    assert await target.effects(change.place.name) == []
    path = "/sandbox/ledger"
    await target.until(
        path,
        lambda found: any(
            write["changed"]
            and write["namespace"] == target.namespace
            and write["name"] == change.place.name
            for write in found["writes"]
        ),
    )
    assert len(await target.effects(change.place.name)) == 1


@pytest.mark.parametrize("verb", ["evict", "scale"])
async def test_dry_run_never_leaves_an_effect(target: Target, verb: str):
    """Not even one whose answer is lost."""
    change = await some_change(target, verb)
    await target.fault("lost", verb="create" if verb == "evict" else "patch")
    async with target.port() as port:
        with pytest.raises(ClusterSilent):
            await port.dry_run(change)
    assert await target.effects(change.place.name) == []


async def test_busy_api_server_is_a_refusal_that_says_when(target: Target):
    """429 without a cause is the API server's own queue: nothing happened, and later is fine."""
    change = await some_change(target, "scale")
    await target.fault("instead", code=429, retry_after_seconds=3)
    async with target.port() as port:
        with pytest.raises(ClusterRefused) as caught:
            await port.apply(change)
        refused = caught.value
        assert (refused.code, refused.fields, refused.retry_after_seconds) == (429, (), 3)
        await port.apply(change)
    assert len(await target.effects("web")) == 1


@pytest.mark.parametrize("told", [{"where": "reset"}, {"where": "instead", "code": 500}])
async def test_read_without_an_answer_is_told_so(target: Target, told: dict[str, Any]):
    """Silence is not absence: a target that cannot be read is not gone."""
    await target.fault(**told, verb="get", resource="deployments")
    async with target.port() as port:
        with pytest.raises(ClusterSilent):
            await port.deployment(target.namespace, "web")
        assert await port.deployment(target.namespace, "web")


async def test_event_with_a_lost_answer_fails_nothing(target: Target):
    """And there is one event in the end."""
    change = await some_change(target, "scale")
    place = dataclasses.replace(change.place, uid="")
    await target.fault("lost", verb="create", resource="events")
    async with target.port() as port:
        for _ in range(2):
            await port.record_event(place, change.place.uid, "AegisScaled", "", "action-1")
    path = f"/apis/events.k8s.io/v1/namespaces/{target.namespace}/events"
    assert len((await target.get(path))["items"]) == 1


async def test_nobody_there_means_nothing_was_sent(target: Target, tmp_path: Any):
    """No connection is the one failure of the wire that leaves no doubt."""
    config = configuration(target.place.executor, "")
    nobody = config._replace(cluster=config.cluster)
    nobody.cluster.server = "https://127.0.0.1:1"
    port = Kubernetes(nobody, reach=Reach(frozenset({target.namespace})))
    with pytest.raises(ClusterUnreachable):
        await port.apply(await some_change(target, "scale"))
    await port.close()
