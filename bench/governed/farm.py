"""The sandbox as its administrator sees it, and deployments in it that nobody else uses."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from aegis.v1.envelope_pb2 import ActionSpec
from aegis_sandbox.scenario import deployment

NAMESPACE = "demo"


def scale(name: str, replicas: int) -> ActionSpec:
    return ActionSpec(
        target=ActionSpec.Target(cluster="sandbox", namespace=NAMESPACE, name=name),
        scale_deployment=ActionSpec.ScaleDeployment(replicas=replicas),
    )


class Administrator:
    """The sandbox as its administrator reaches it."""

    def __init__(self, home: Path) -> None:
        control = json.loads((home / "sandbox" / "control.json").read_text())
        self._client = httpx2.AsyncClient(
            base_url=control["url"],
            headers={"Authorization": f"Bearer {control['token']}"},
            verify=ssl.create_default_context(cafile=control["ca"]),
            trust_env=False,
            timeout=30,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def create(self, name: str, replicas: int) -> None:
        manifest = deployment(NAMESPACE, name, replicas, f"registry.example/{name}:1.0")
        path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
        (await self._client.post(path, json=manifest)).raise_for_status()

    async def deployments(self) -> list[dict[str, Any]]:
        path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
        return list((await self._client.get(path)).raise_for_status().json()["items"])

    async def replicas(self, name: str) -> int:
        found = {each["metadata"]["name"]: each for each in await self.deployments()}
        return int(found[name]["spec"]["replicas"])

    async def faults(self, *faults: dict[str, Any]) -> None:
        answer = await self._client.post("/sandbox/faults", json={"faults": list(faults)})
        answer.raise_for_status()


@dataclass(slots=True)
class Target:
    """A deployment that goes from two replicas to three and back."""

    name: str
    replicas: int = 2
    rested_at: float = 0.0

    @property
    def wanted(self) -> int:
        return 5 - self.replicas


@dataclass(slots=True)
class Farm:
    """Deployments nobody else uses; one comes back once its rollout and its verdict are over."""

    names: list[str]
    rest_seconds: float = 2.0
    _free: deque[Target] = field(init=False)

    def __post_init__(self) -> None:
        self._free = deque(Target(name) for name in self.names)

    @classmethod
    def scripted(cls, size: int) -> Farm:
        """A cluster that is a script has whatever is asked for."""
        return cls([f"load-{number:03d}" for number in range(size)])

    @classmethod
    async def planted(cls, administrator: Administrator, size: int) -> Farm:
        names = [f"load-{number:03d}" for number in range(size)]
        for name in names:
            await administrator.create(name, 2)
        async with asyncio.timeout(60):
            while not all(map(_is_ready, await administrator.deployments())):
                await asyncio.sleep(0.2)
        return cls(names)

    async def take(self) -> Target:
        loop = asyncio.get_running_loop()
        while not self._free or self._free[0].rested_at > loop.time():
            await asyncio.sleep(0.005)
        return self._free.popleft()

    def put_back(self, target: Target, *, changed: bool) -> None:
        if changed:
            target.replicas = target.wanted
            target.rested_at = asyncio.get_running_loop().time() + self.rest_seconds
            self._free.append(target)
        else:
            self._free.appendleft(target)


def _is_ready(found: dict[str, Any]) -> bool:
    status: dict[str, Any] = found.get("status", {})
    return status.get("readyReplicas") == found["spec"]["replicas"]
