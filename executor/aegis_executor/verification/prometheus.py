"""Prometheus' HTTP API, asked two things: one number, and the rules of one alert.

Whatever is not a clear answer is `Unanswered`: no connection, no time, an error, a warning that
something is missing, no value or several, a value that is no number.
"""

from __future__ import annotations

import asyncio
import json
import math
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import httpx2

from aegis_executor.guards.dependencies import Dependency

_BYTES_MAX = 4 * 1024 * 1024
_ACTIVE = frozenset({"firing", "pending"})


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Nobody could tell, and why."""

    why: str


@dataclass(frozen=True, slots=True)
class Rule:
    """An alerting rule, and the labels of each of its alerts that is pending or firing."""

    name: str
    labels: Mapping[str, str]
    healthy: bool
    evaluated_at: datetime
    active: Sequence[Mapping[str, str]]


class Metrics(Protocol):
    """Who can be asked: a Prometheus, or nobody."""

    async def value(self, query: str) -> float | Unanswered:
        """Returns the one number a query yields now."""

    async def rules(self, name: str) -> Sequence[Rule] | Unanswered:
        """Returns the alerting rules of a name."""


class Nobody:
    """Stands in where no Prometheus is set: a probe that was wanted is then unanswered."""

    async def value(self, query: str) -> float | Unanswered:
        """Has no number."""
        return _NOBODY

    async def rules(self, name: str) -> Sequence[Rule] | Unanswered:
        """Has no rules."""
        return _NOBODY


_NOBODY = Unanswered("AEGIS_PROMETHEUS_URL is not set")


class Prometheus:
    """One Prometheus, or what speaks its API.

    `token_file` is read for every question, because such tokens are changed. No answer takes
    longer than `timeout_seconds` or more than 4 MiB. One that is away is left alone for as long as
    `dependency` says.
    """

    def __init__(
        self,
        url: str,
        *,
        dependency: Dependency,
        authority: Path | None = None,
        token_file: Path | None = None,
        timeout_seconds: float = 5.0,
    ) -> None:
        self._dependency = dependency
        self._token_file = token_file
        self._timeout_seconds = timeout_seconds
        context = ssl.create_default_context(cafile=str(authority) if authority else None)
        self._client = httpx2.AsyncClient(
            base_url=url.rstrip("/"),
            verify=context,
            trust_env=False,
            timeout=timeout_seconds,
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def value(self, query: str) -> float | Unanswered:
        """Returns the one number a query yields now."""
        data = await self._ask("/api/v1/query", {"query": query})
        if isinstance(data, Unanswered):
            return data
        try:
            return _number(data)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            return Unanswered("Prometheus answered in an unknown form")

    async def rules(self, name: str) -> Sequence[Rule] | Unanswered:
        """Returns the alerting rules of a name, with their active alerts."""
        data = await self._ask("/api/v1/rules", {"type": "alert", "rule_name[]": name})
        if isinstance(data, Unanswered):
            return data
        try:
            # Older ones do not know rule_name[] and tell of every rule.
            rules = [rule for group in data["groups"] for rule in group["rules"]]
            return [_rule(rule) for rule in rules if rule["name"] == name and "alerts" in rule]
        except (AttributeError, KeyError, TypeError, ValueError):
            return Unanswered("Prometheus answered in an unknown form")

    async def _ask(self, path: str, told: Mapping[str, str]) -> Any:
        if not self._dependency.ready():
            return Unanswered("Prometheus was away a moment ago and is left alone")
        try:
            async with asyncio.timeout(self._timeout_seconds):
                data = await self._asked(path, told)
        except TimeoutError:
            return self._away(f"Prometheus took longer than {self._timeout_seconds:g} s")
        except httpx2.HTTPError as error:
            return self._away(f"Prometheus cannot be reached: {type(error).__name__}")
        except ValueError:
            data = Unanswered("Prometheus answered in an unknown form")
        self._dependency.succeeded()
        return data

    def _away(self, why: str) -> Unanswered:
        self._dependency.failed(why)
        return Unanswered(why)

    async def _asked(self, path: str, told: Mapping[str, str]) -> Any:
        headers = {}
        if self._token_file is not None:
            try:
                token = await asyncio.to_thread(self._token_file.read_text)
            except OSError as error:
                return Unanswered(f"the token cannot be read: {type(error).__name__}")
            headers["Authorization"] = f"Bearer {token.strip()}"
        async with self._client.stream("GET", path, params=told, headers=headers) as response:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _BYTES_MAX:
                    return Unanswered("Prometheus answered with more than 4 MiB")
        if response.status_code != 200:
            # Its own words may quote the query; the kind of error is enough.
            return Unanswered(f"Prometheus answered {response.status_code}{_kind(bytes(body))}")
        answer = json.loads(bytes(body))
        if not isinstance(answer, dict) or answer.get("status") != "success":
            return Unanswered("Prometheus did not succeed")
        if answer.get("warnings"):
            return Unanswered("Prometheus warns that something is missing in its answer")
        return answer.get("data")


def _kind(body: bytes) -> str:
    try:
        kind = json.loads(body).get("errorType", "")
    except (ValueError, AttributeError):
        return ""
    return f" {kind}" if isinstance(kind, str) and kind.isprintable() and len(kind) < 40 else ""


def _number(data: Any) -> float | Unanswered:
    result = data["result"]
    if data["resultType"] == "vector":
        if len(result) != 1:
            return Unanswered(f"the query has {len(result)} values, not one")
        if "value" not in result[0]:
            return Unanswered("the query's value is no plain number")
        result = result[0]["value"]
    elif data["resultType"] != "scalar":
        return Unanswered(f"the query's result is a {data['resultType']}, not one value")
    value = float(result[1])
    return value if math.isfinite(value) else Unanswered(f"the query's value is {result[1]}")


def _rule(rule: Any) -> Rule:
    return Rule(
        name=rule["name"],
        labels=rule.get("labels") or {},
        healthy=rule.get("health") == "ok",
        evaluated_at=datetime.fromisoformat(rule["lastEvaluation"]),
        active=[alert["labels"] for alert in rule["alerts"] if alert["state"] in _ACTIVE],
    )
