"""One small family of errors, and how each travels over gRPC.

A program raises one of these classes; the interceptor at the door turns it into a
`google.rpc.Status` with an `ErrorInfo` (a `BadRequest` where fields are to blame, a
`PreconditionFailure` where something has to happen first, a `QuotaFailure` where the budget of a
scope is used up), and `from_rpc_error` turns that back on the client's side. The message is written
for the caller: private detail belongs in the log, chained as `__cause__`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from aegis.v1 import errors_pb2

DOMAIN = "aegis.dev"
_PREFIX = "ERROR_REASON_"
_REASONS = frozenset(errors_pb2.ErrorReason.keys())


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field (a path such as `plan.rounds`, or `line 7`) and what is wrong with it."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class Precondition:
    """Something that has to be so first: what kind, about whom or what, and a sentence."""

    kind: str
    subject: str
    description: str


class AegisError(Exception):
    """A refusal or failure with a public reason; subclasses fix the gRPC code.

    `reason` is a name of `aegis.v1.ErrorReason` without its prefix; `metadata` holds short
    public values a program can act on; `retry_seconds` says when to try again.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        violations: Iterable[FieldViolation] = (),
        preconditions: Iterable[Precondition] = (),
        retry_seconds: float | None = None,
        **metadata: object,
    ) -> None:
        if _PREFIX + reason not in _REASONS:
            raise ValueError(f"{reason} is not in aegis.v1.ErrorReason")
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.violations = tuple(violations)
        self.preconditions = tuple(preconditions)
        self.retry_seconds = retry_seconds
        self.metadata = {key: str(value) for key, value in metadata.items()}

    def to_status(self) -> status_pb2.Status:
        """Returns the status that says all of this on the wire."""
        details: list[Message] = [
            error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.metadata)
        ]
        if self.violations:
            bad_request = error_details_pb2.BadRequest()
            for violation in self.violations:
                bad_request.field_violations.add(
                    field=violation.field, description=violation.description
                )
            details.append(bad_request)
        if self.preconditions:
            failure = error_details_pb2.PreconditionFailure()
            for condition in self.preconditions:
                failure.violations.add(
                    type=condition.kind,
                    subject=condition.subject,
                    description=condition.description,
                )
            details.append(failure)
        if self.retry_seconds is not None:
            wait = error_details_pb2.RetryInfo()
            wait.retry_delay.FromNanoseconds(int(self.retry_seconds * 1e9))
            details.append(wait)
        if self.code is grpc.StatusCode.RESOURCE_EXHAUSTED and "scope" in self.metadata:
            # Whose budget it is; google.rpc keeps that apart from our own reason.
            quota = error_details_pb2.QuotaFailure()
            quota.violations.add(subject=self.metadata["scope"], description=self.message)
            details.append(quota)
        packed = []
        for detail in details:
            packed.append(any_pb2.Any())
            packed[-1].Pack(detail)
        number = code_pb2.Code.Value(self.code.name)
        return status_pb2.Status(code=number, message=self.message, details=packed)


class InvalidArgument(AegisError):
    """The request itself is wrong, whatever the state of the system."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class Unauthenticated(AegisError):
    """Nobody, or nobody provable, is asking."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(AegisError):
    """We know who asks, and the answer is no."""

    code = grpc.StatusCode.PERMISSION_DENIED


class NotFound(AegisError):
    """There is no such thing."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(AegisError):
    """The name is taken by something else."""

    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(AegisError):
    """Not in this state; do something else first."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Aborted(AegisError):
    """Somebody else was faster; read again and retry as a whole."""

    code = grpc.StatusCode.ABORTED


class ResourceExhausted(AegisError):
    """A limit or a budget is used up."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class DeadlineExceeded(AegisError):
    """The time the caller gave is over."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Unavailable(AegisError):
    """Something we depend on is away; the same call may go through later."""

    code = grpc.StatusCode.UNAVAILABLE


class DataLoss(AegisError):
    """What was stored is not there, or not as it was stored."""

    code = grpc.StatusCode.DATA_LOSS


class Internal(AegisError):
    """A defect of ours."""

    code = grpc.StatusCode.INTERNAL


_BY_CODE: dict[grpc.StatusCode, type[AegisError]] = {
    cls.code: cls for cls in AegisError.__subclasses__()
}


def from_rpc_error(error: grpc.RpcError) -> AegisError:
    """Turns what a stub raised back into the error the server raised.

    Errors that carry no `ErrorInfo` of ours (a broken connection, a proxy) become
    `Unavailable` or `Internal` with the transport's own words.
    """
    code = error.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN
    text = (error.details() if hasattr(error, "details") else None) or str(code)
    status = rpc_status.from_call(error)
    return _error(code, text, status.details if status is not None else ())


def from_status(status: status_pb2.Status) -> AegisError:
    """Turns a status inside a message, one item's in a batch, back into the error it tells of."""
    return _error(_CODES.get(status.code, grpc.StatusCode.UNKNOWN), status.message, status.details)


_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def _error(code: grpc.StatusCode, text: str, details: Iterable[any_pb2.Any]) -> AegisError:
    cls = _BY_CODE.get(code, Internal)
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    failure = error_details_pb2.PreconditionFailure()
    wait = error_details_pb2.RetryInfo()
    for detail in details:
        any(detail.Unpack(each) for each in (info, bad_request, failure, wait))
    violations = tuple(FieldViolation(v.field, v.description) for v in bad_request.field_violations)
    known = info.domain == DOMAIN and _PREFIX + info.reason in _REASONS
    seconds = wait.retry_delay.ToNanoseconds() / 1e9 if wait.HasField("retry_delay") else None
    translated = cls(
        info.reason if known else "INTERNAL",
        text,
        violations=violations,
        preconditions=(Precondition(v.type, v.subject, v.description) for v in failure.violations),
        retry_seconds=seconds,
    )
    translated.metadata.update(info.metadata)
    return translated
