"""Errors keep their meaning on the wire."""

from __future__ import annotations

from datetime import timedelta

import grpc
import pytest
from google.rpc import error_details_pb2

from aegis.errors import FieldViolation, InvalidArgument, PermissionDenied, ResourceExhausted


def test_reason_that_is_not_in_the_contract_is_a_defect():
    """An error reason must be listed in errors.proto."""
    with pytest.raises(ValueError, match="NO_SUCH_REASON"):
        InvalidArgument("NO_SUCH_REASON", "text")


def test_status_carries_reason_metadata_and_fields():
    """ErrorInfo says which check refused; BadRequest says which field."""
    error = InvalidArgument(
        "FIELD_INVALID", "no", violations=[FieldViolation("plan.rounds", "too few")], limit=3
    )
    status = error.to_status()
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(bad_request)
    assert (status.code, info.reason, info.domain) == (
        grpc.StatusCode.INVALID_ARGUMENT.value[0],
        "FIELD_INVALID",
        "aegis.dev",
    )
    assert dict(info.metadata) == {"limit": "3"}
    assert bad_request.field_violations[0].field == "plan.rounds"


def test_status_without_fields_has_no_bad_request():
    """Each kind of detail appears only when it says something."""
    status = PermissionDenied("POLICY_DENIED", "no").to_status()
    assert [detail.TypeName() for detail in status.details] == ["google.rpc.ErrorInfo"]


def test_when_to_try_again_travels_as_retry_info():
    """A client that waits as long as it was told is not refused twice."""
    limited = ResourceExhausted("RATE_LIMITED", "too many calls", retry_seconds=1.5, limit="read")
    wait = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(wait) for detail in limited.to_status().details)
    assert wait.retry_delay.ToTimedelta() == timedelta(seconds=1.5)
