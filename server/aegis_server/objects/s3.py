"""Objects in a bucket of S3, or of what speaks like it."""

from __future__ import annotations

from collections.abc import Iterator

from aegis_server.objects.aws import Failure, client, code_of, translated
from aegis_server.objects.places import (
    Bucket,
    Listed,
    ObjectMissing,
    checked_name,
    checked_prefix,
)

_TRIES = 5


class S3:
    """A `Place` in a bucket. Two who write one name at once: S3 tells one that it was taken.

    `kms_key` is the key that S3 itself encrypts with (SSE-KMS); without one, as the bucket is set.
    """

    def __init__(
        self, bucket: Bucket, *, endpoint: str | None = None, kms_key: str | None = None
    ) -> None:
        self._bucket = bucket
        self._client = client("s3", endpoint=endpoint)
        self._encryption = (
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}
        )

    def put(self, name: str, data: bytes | bytearray, *, replace: bool = False) -> bool:
        """See `Place`."""
        condition = {} if replace else {"IfNoneMatch": "*"}
        for tries_left in reversed(range(_TRIES)):
            try:
                self._client.put_object(
                    Bucket=self._bucket.name,
                    Key=self._bucket.prefix + checked_name(name),
                    Body=data,
                    **condition,
                    **self._encryption,
                )
            except Failure as error:
                if code_of(error) == "PreconditionFailed":
                    return False
                # Somebody is writing this name at this moment: ask again what came of it.
                if code_of(error) == "ConditionalRequestConflict" and tries_left:
                    continue
                raise translated(error, "the object store") from error
            return True
        raise AssertionError("unreachable")

    def get(self, name: str, *, start: int = 0, length: int) -> bytes:
        """See `Place`."""
        if length <= 0:
            return b""
        try:
            answer = self._client.get_object(
                Bucket=self._bucket.name,
                Key=self._bucket.prefix + checked_name(name),
                Range=f"bytes={start}-{start + length - 1}",
            )
            with answer["Body"] as body:
                data: bytes = body.read(length)
        except Failure as error:
            if code_of(error) in ("NoSuchKey", "404"):
                raise ObjectMissing(name) from error
            if code_of(error) == "InvalidRange":
                return b""
            raise translated(error, "the object store") from error
        return data

    def list(self, prefix: str) -> Iterator[Listed]:
        """See `Place`."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket.name, Prefix=self._bucket.prefix + checked_prefix(prefix)
        )
        try:
            for page in pages:
                for found in page.get("Contents", ()):
                    yield Listed(found["Key"][len(self._bucket.prefix) :], found["Size"])
        except Failure as error:
            raise translated(error, "the object store") from error
