"""Looks at the workloads every few seconds and keeps storm mode.

A sensor that could not look for too long is blind, and blind counts as a storm: what is not known
to be calm is not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from aegis_executor.catalogue.base import Object
from aegis_executor.guards.dependencies import Dependency
from aegis_executor.guards.numbers import StormNumbers
from aegis_executor.guards.onsets import Onsets
from aegis_executor.guards.storm import Health, Sight, Storm

log = logging.getLogger(__name__)

# Kubernetes' own default for progressDeadlineSeconds.
_DEADLINE = 600


class Workloads(Protocol):
    """What the sensor needs of the cluster."""

    async def deployments(self, namespace: str) -> Sequence[Object]:
        """Returns every deployment of a namespace."""


class Sensor:
    """Storm mode as this process sees it.

    `storm` is what was written down before this process began, with BLIND left out; None in a
    fresh installation. `written` is told of each change.
    """

    def __init__(
        self,
        cluster: Workloads,
        namespaces: Collection[str],
        *,
        numbers: StormNumbers,
        clock: Callable[[], datetime],
        dependency: Dependency,
    ) -> None:
        self._cluster = cluster
        self._namespaces = sorted(namespaces)
        self._numbers = numbers
        self._clock = clock
        self._dependency = dependency
        self._storm: Storm | None = None
        self._looked_at: datetime | None = None
        self._short_since: dict[tuple[str, str], datetime] = {}
        self._onsets = Onsets()

    def begin(self, storm: Storm | None) -> None:
        """Goes on from what was written down; the quiet time begins anew."""
        self._storm = replace(storm, quiet_since=None) if storm is not None else None

    @property
    def storm(self) -> Storm | None:
        """Storm mode; None while nobody has looked for too long."""
        if self._looked_at is None:
            return None
        age = self._clock() - self._looked_at
        # A clock that went back would make an old look young for as long as it went back.
        seeing = timedelta(0) <= age <= timedelta(seconds=self._numbers.blind_seconds)
        return self._storm if seeing else None

    async def look(self, under_way: Collection[tuple[str, str, str]]) -> None:
        """Looks once, unless it is to wait; `under_way` are the targets something is done to."""
        if not self._dependency.ready():
            return
        now = self._clock()
        try:
            async with asyncio.timeout(self._numbers.blind_seconds / 2):
                found = {
                    (namespace, str(deployment["metadata"]["name"])): deployment
                    for namespace in self._namespaces
                    for deployment in await self._cluster.deployments(namespace)
                }
        except Exception as error:  # whatever it is, nothing was seen
            self._dependency.failed(f"{type(error).__name__}: {error}")
            log.warning("workloads cannot be looked at: %s", error or type(error).__name__)
            return
        self._dependency.succeeded()
        # What was gone blind for is no quiet time.
        if self.storm is None and self._storm is not None:
            self._storm = replace(self._storm, quiet_since=None)
        self._short_since = {
            key: self._short_since.get(key, now)
            for key, deployment in found.items()
            if short(deployment)
        }
        workloads = {key: self._health(key, each, now, under_way) for key, each in found.items()}
        ill = [key for key, health in workloads.items() if health is Health.ILL]
        self._onsets = self._onsets.seen(ill, now, self._numbers)
        sight = Sight(now, workloads, self._onsets)
        self._storm = (self._storm or Storm("CALM", now)).seen(sight, self._numbers)
        self._looked_at = now

    def _health(
        self,
        key: tuple[str, str],
        deployment: Object,
        now: datetime,
        under_way: Collection[tuple[str, str, str]],
    ) -> Health:
        since = self._short_since.get(key)
        grace = self._numbers.grace_seconds
        if rolling(deployment):
            grace = max(grace, _count(deployment.get("spec"), "progressDeadlineSeconds", _DEADLINE))
        if since is not None and now - since >= timedelta(seconds=grace):
            return Health.ILL
        busy = (key[0], "deployments", key[1]) in under_way
        return Health.UNSURE if busy else Health.HEALTHY


def short(deployment: Object) -> bool:
    """True when fewer pods serve than should."""
    wanted = _count(deployment.get("spec"), "replicas", 1)
    return _count(deployment.get("status"), "availableReplicas", 0) < wanted


def rolling(deployment: Object) -> bool:
    """True within the time a rollout is given, or while one is not wanted to go on."""
    spec, status = deployment.get("spec") or {}, deployment.get("status") or {}
    conditions = {each.get("type"): each for each in status.get("conditions") or ()}
    progressing = conditions.get("Progressing", {})
    if progressing.get("status") == "False":
        return False
    if spec.get("paused"):
        return True
    behind = _count(status, "observedGeneration", 0) < _count(
        deployment.get("metadata"), "generation", 0
    )
    return behind or _count(status, "updatedReplicas", 0) < _count(spec, "replicas", 1)


def _count(part: Mapping[str, Any] | None, key: str, default: int) -> int:
    value = (part or {}).get(key, default)
    return value if isinstance(value, int) else default
