"""Both kinds of places, empty, and a service of keys."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from tests.blobs import aws

from aegis_server.objects.folder import Folder
from aegis_server.objects.places import Bucket, Place
from aegis_server.objects.s3 import S3


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """S3 and KMS."""
    with aws() as address:
        yield address


@pytest.fixture
def bucket(endpoint: str) -> Bucket:
    """An empty bucket, used below a prefix."""
    found = Bucket(f"test-{uuid.uuid4().hex[:12]}", "aegis/")
    boto3.client("s3", endpoint_url=endpoint).create_bucket(
        Bucket=found.name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
    )
    return found


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty place."""
    if request.param == "folder":
        return Folder(tmp_path / "objects")
    return S3(request.getfixturevalue("bucket"), endpoint=request.getfixturevalue("endpoint"))


@pytest.fixture
def kms(endpoint: str) -> Any:
    """A client of KMS."""
    return boto3.client("kms", endpoint_url=endpoint)


@pytest.fixture
def new_key(kms: Any) -> Callable[[], str]:
    """Makes keys of KMS; returns their ARN."""
    return lambda: str(kms.create_key()["KeyMetadata"]["Arn"])
