"""Clients of AWS, and what their errors mean to us. Needs the extra `s3`; imported only by use."""

from __future__ import annotations

from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from aegis.errors import ResourceExhausted, Unavailable

_CONNECT_SECONDS, _READ_SECONDS, _ATTEMPTS = 5, 30, 4
_FULL = frozenset({"XMinioStorageFull", "QuotaExceeded", "InsufficientStorage", "507"})

Failure = (BotoCoreError, ClientError)


def client(service: str, *, endpoint: str | None, region: str | None = None) -> Any:
    """Returns a client that waits seconds, not minutes; credentials come as boto3 finds them.

    `endpoint` is the address of a stand-in. Raises ValueError when there is no region.
    """
    config = Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        # The name of a bucket is no name of a machine at a stand-in.
        s3={"addressing_style": "path" if endpoint else "auto"},
    )
    try:
        return boto3.client(service, endpoint_url=endpoint, region_name=region, config=config)
    except BotoCoreError as error:
        raise ValueError(f"no client for {service}: {error}") from error


def code_of(error: Exception) -> str:
    """Returns the code of an answer, e.g. "NoSuchKey"; empty when nobody answered."""
    if not isinstance(error, ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", ""))


def translated(error: Exception, what: str) -> ResourceExhausted | Unavailable:
    """Returns STORAGE_FULL or STORAGE_UNAVAILABLE, without what the answer gave away."""
    code = code_of(error) or type(error).__name__
    if code in _FULL:
        return ResourceExhausted("STORAGE_FULL", f"{what} is full; nothing was stored")
    return Unavailable("STORAGE_UNAVAILABLE", f"{what} does not serve us: {code}", cause=code)
