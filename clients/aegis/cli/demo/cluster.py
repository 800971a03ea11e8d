"""The sandbox cluster as its administrator sees it: enough to break a pod and to look."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod and whether it is ready."""

    name: str
    uid: str
    ready: bool
    reason: str


class SandboxCluster:
    """Speaks to the sandbox API with what it wrote to its control.json."""

    def __init__(self, control_file: Path) -> None:
        control = json.loads(control_file.read_text())
        self._host = urlsplit(control["url"]).netloc
        self._token = control["token"]
        self._tls = ssl.create_default_context(cafile=control["ca"])

    async def pods(self, namespace: str, app: str) -> list[Pod]:
        """Returns the pods of a deployment."""
        path = f"/api/v1/namespaces/{namespace}/pods?labelSelector=app%3D{app}"
        answer = await asyncio.to_thread(self._ask, "GET", path, None)
        return sorted((_pod(item) for item in answer["items"]), key=lambda pod: pod.name)

    async def break_deployment(self, namespace: str, deployment: str) -> list[str]:
        """Makes a pod of the deployment crash-loop; returns the names of the broken ones."""
        body = {"namespace": namespace, "deployment": deployment}
        answer = await asyncio.to_thread(self._ask, "POST", "/sandbox/break", body)
        return list(answer["pods"])

    async def keep_pods_away(self, away: bool) -> None:
        """Lets no node take another pod, or every node again."""
        answer = await asyncio.to_thread(self._ask, "GET", "/api/v1/nodes", None)
        for node in answer["items"]:
            path = f"/api/v1/nodes/{node['metadata']['name']}"
            body = {"spec": {"unschedulable": away}}
            await asyncio.to_thread(self._ask, "PATCH", path, body)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        connection = http.client.HTTPSConnection(self._host, context=self._tls, timeout=10)
        try:
            headers = {"Authorization": f"Bearer {self._token}"}
            if method == "PATCH":
                headers["Content-Type"] = "application/merge-patch+json"
            connection.request(method, path, json.dumps(body) if body else None, headers)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status >= 300:
            raise RuntimeError(f"the sandbox answered {method} {path} with {response.status}")
        return dict(json.loads(answer))


def _pod(item: dict[str, Any]) -> Pod:
    status = item.get("status", {})
    ready = any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in status.get("conditions", ())
    )
    waiting = [
        container["state"]["waiting"].get("reason", "")
        for container in status.get("containerStatuses", ())
        if "waiting" in container.get("state", {})
    ]
    reason = "" if ready else (waiting or [status.get("phase", "")])[0]
    return Pod(item["metadata"]["name"], item["metadata"]["uid"], ready, reason)
