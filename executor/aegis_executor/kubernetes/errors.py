"""What can go wrong with a cluster, told apart by one question: did the change happen?

Messages of the API server are not kept: a 422 quotes the whole object, secrets included.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2

# The one 500 that is a clear no; it comes with this message and, unlike an error, no reason.
_MANY_BUDGETS = "This pod has more than one PodDisruptionBudget"
_WARNING = re.compile(r'\d{3} \S+ "((?:[^"\\]|\\.)*)"')
_WARNINGS_MAX = 16
_WARNING_CHARACTERS_MAX = 300


@dataclass(eq=False)
class ClusterRefused(Exception):
    """The API server answered no; nothing was changed.

    `fields` are the causes' fields, or their reasons where they name none (`DisruptionBudget`).
    `retry_after_seconds` is what the server asked for, or 0.
    """

    code: int
    reason: str
    fields: tuple[str, ...]
    audit_id: str
    retry_after_seconds: int = 0

    def __str__(self) -> str:
        return f"{self.code} {self.reason} {','.join(self.fields)}".strip()


class ClusterUnreachable(Exception):
    """No connection: nothing was sent."""


class ClusterSilent(Exception):
    """Sent, but no clear answer: whether it took effect is not known."""


class ForbiddenRequest(Exception):
    """Something built a request the executor must never send; it was not sent."""


def check(response: httpx2.Response) -> dict[str, Any]:
    """Returns the JSON object of a success.

    Raises `ClusterRefused` for a no in the API server's own words, `ClusterSilent` for anything
    that says nothing: a server in trouble, a proxy in between, a portal.
    """
    kind = response.headers.get("Content-Type", "").partition(";")[0]
    if kind != "application/json":
        raise ClusterSilent(f"status {response.status_code}, {kind or 'no type'}")
    try:
        body = response.json()
    except ValueError as error:
        raise ClusterSilent(f"status {response.status_code}, broken JSON") from error
    if not isinstance(body, dict):
        raise ClusterSilent(f"status {response.status_code}, no object")
    if response.is_success:
        return body
    if body.get("kind") != "Status" or not _is_clear(response.status_code, body):
        raise ClusterSilent(f"status {response.status_code}")
    raise ClusterRefused(
        code=response.status_code,
        reason=str(body.get("reason") or ""),
        fields=_fields(body),
        audit_id=audit_id(response),
        retry_after_seconds=_seconds(response.headers.get("Retry-After", "")),
    )


def _is_clear(code: int, status: dict[str, Any]) -> bool:
    if code < 500:
        return code >= 400
    many = str(status.get("message", "")).startswith(_MANY_BUDGETS)
    return code == 500 and many and not status.get("reason")


def _fields(status: dict[str, Any]) -> tuple[str, ...]:
    causes = (status.get("details") or {}).get("causes") or []
    return tuple(str(cause.get("field") or cause.get("reason") or "") for cause in causes)


def _seconds(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def audit_id(response: httpx2.Response) -> str:
    """Returns the key of the API server's own audit record of a request."""
    return str(response.headers.get("Audit-Id", ""))


def warnings(response: httpx2.Response) -> list[str]:
    """Returns the texts of the Warning headers, each cut to a length that fits a record."""
    texts = [
        re.sub(r"\\(.)", r"\1", found)[:_WARNING_CHARACTERS_MAX]
        for header in response.headers.get_list("Warning")
        for found in _WARNING.findall(header)
    ]
    return texts[:_WARNINGS_MAX]


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turns what the wire raises into `ClusterUnreachable` (not sent) or `ClusterSilent`."""
    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
        raise ClusterUnreachable(type(error).__name__) from error
    except (httpx2.HTTPError, TimeoutError) as error:
        raise ClusterSilent(type(error).__name__) from error
