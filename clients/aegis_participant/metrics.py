"""Figures of each round, which a site writes itself, as RUN/PARTICIPANT/ROUND.json.

Many sites write to the same place at once, so every object has one writer, and nobody's is ever
overwritten. How well a model does on the site's rows is exact: it is there only for public rows, or
where the site says `share = true`.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit


class AlreadyThere(Exception):
    """An object of this name is there and stays."""


class Store(Protocol):
    """A folder or a bucket."""

    def put(self, key: str, data: bytes) -> None:
        """Adds an object; raises `AlreadyThere`, and OSError when it cannot be stored."""


class FolderStore:
    """Objects as files, which appear whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, key: str, data: bytes) -> None:
        """See `Store`."""
        place = self._folder / key
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = place.with_name(f".{secrets.token_hex(8)}.new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            # Unlike a rename, a link never takes the place of another file.
            os.link(fresh, place)
        except FileExistsError:
            raise AlreadyThere(key) from None
        finally:
            fresh.unlink(missing_ok=True)


class BucketStore:
    """Objects in S3, encrypted there with `kms_key` where one is named.

    Region, endpoint and credentials are those of the environment, as for every AWS program.
    """

    def __init__(self, bucket: str, prefix: str, kms_key: str) -> None:
        """Raises ImportError without the extra `s3`, and ValueError for unusable settings."""
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        self._errors = (BotoCoreError, ClientError)
        try:
            self._client = boto3.client(
                "s3", config=Config(connect_timeout=5, read_timeout=20, retries={"max_attempts": 3})
            )
        except BotoCoreError as error:
            raise ValueError(f"metrics.store: {error}") from error
        self._bucket = bucket
        self._prefix = prefix
        self._encryption = (
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}
        )

    def put(self, key: str, data: bytes) -> None:
        """See `Store`."""
        try:
            self._client.put_object(
                Bucket=self._bucket,
                Key=f"{self._prefix}/{key}".lstrip("/"),
                Body=data,
                ContentType="application/json",
                IfNoneMatch="*",
                **self._encryption,
            )
        except self._errors as error:
            answer: Mapping[str, Any] = getattr(error, "response", {})
            if answer.get("Error", {}).get("Code") in ("PreconditionFailed", "412"):
                raise AlreadyThere(key) from None
            raise OSError(f"s3://{self._bucket}: {type(error).__name__}: {error}") from error


def open_store(address: str, kms_key: str) -> Store | None:
    """Returns the store of an address, or None for an empty one; raises as `BucketStore`."""
    if not address:
        return None
    if address.startswith("s3://"):
        parts = urlsplit(address)
        return BucketStore(parts.netloc, parts.path.strip("/"), kms_key)
    return FolderStore(Path(address))


def key_of(run_id: str, participant: str, number: int) -> str:
    """Returns the object's name; raises ValueError for a run whose name would lead elsewhere."""
    if not run_id or not all(c.isascii() and (c.isalnum() or c in "-_") for c in run_id):
        raise ValueError("the run's name is no name of an object")
    return f"{run_id}/{participant}/{number}.json"


def encode(figures: Mapping[str, Any]) -> bytes:
    """Returns the object's content."""
    return json.dumps(figures, sort_keys=True, separators=(",", ":")).encode() + b"\n"
