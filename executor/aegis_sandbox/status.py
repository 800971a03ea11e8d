"""Kubernetes' own way to say no: a `Status` object with a code, a reason and causes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

Object: TypeAlias = dict[str, Any]

_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    501: "NotImplemented",
    503: "ServiceUnavailable",
    504: "Timeout",
}

CODES = frozenset(_REASONS)


class Refused(Exception):
    """A request ends here; `body` is the Status to send."""

    def __init__(
        self,
        code: int,
        message: str,
        *,
        reason: str = "",
        details: Mapping[str, Any] | None = None,
        causes: Iterable[tuple[str, str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.headers = dict(headers or {})
        told: Object = dict(details or {})
        listed = [
            {"reason": reason_, "field": field, "message": text} for reason_, field, text in causes
        ]
        if listed:
            told["causes"] = [{k: v for k, v in cause.items() if v} for cause in listed]
        self.body: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason or _REASONS[code],
            "code": code,
        }
        if told:
            self.body["details"] = told


def success(code: int) -> Object:
    """Returns the Status of something done that has no object of its own."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "code": code,
    }


def not_modelled(what: str) -> Refused:
    """The sandbox never guesses: what it does not model it refuses."""
    return Refused(501, f"the Aegis sandbox does not model {what}")


def invalid(resource: str, name: str, *causes: tuple[str, str, str]) -> Refused:
    """Returns a 422; a cause is (reason, field, message)."""
    told = ", ".join(f"{field}: {message}" if field else message for _, field, message in causes)
    return Refused(
        422,
        f'{resource} "{name}" is invalid: {told}',
        details={"name": name, "kind": resource},
        causes=causes,
    )


def missing(resource: str, name: str) -> Refused:
    """Returns a 404 for an object."""
    return Refused(404, f'{resource} "{name}" not found', details={"name": name, "kind": resource})


def conflict(resource: str, name: str, message: str) -> Refused:
    """Returns a 409: a precondition does not hold any more."""
    return Refused(
        409,
        f'Operation cannot be fulfilled on {resource} "{name}": {message}',
        details={"name": name, "kind": resource},
    )
