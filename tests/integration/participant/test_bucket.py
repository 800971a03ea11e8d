"""Figures of rounds in a bucket: a real S3 client against moto's server."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from aegis_participant import metrics

boto3 = pytest.importorskip("boto3")
server = pytest.importorskip("moto.server")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    running = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    # One process is one AWS to moto: what an earlier test made is still there.
    reset = urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")
    urllib.request.urlopen(reset, timeout=5).close()
    client = boto3.client("s3")
    client.create_bucket(
        Bucket="figures", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
    )
    yield client
    running.stop()


def test_every_site_writes_its_own_object(bucket: Any) -> None:
    """At the same time, under one prefix, with the key of the hospital's KMS."""
    store = metrics.open_store("s3://figures/aegis/", "alias/figures")
    assert store is not None

    def write(site: int) -> None:
        key = metrics.key_of("run-1", f"site-{site}", 2)
        store.put(key, metrics.encode({"steps": site}))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(8)))
    for site in range(8):
        found = bucket.get_object(Bucket="figures", Key=f"aegis/run-1/site-{site}/2.json")
        assert {"steps": site} == json.loads(found["Body"].read())
        assert found["ServerSideEncryption"] == "aws:kms"
        assert "alias/figures" in found["SSEKMSKeyId"]


def test_nothing_is_overwritten(bucket: Any) -> None:
    """Not by a second try either, and not by one who is first by a hair."""
    store = metrics.open_store("s3://figures", "")
    assert store is not None
    store.put("run/site/1.json", b"first")
    with pytest.raises(metrics.AlreadyThere):
        store.put("run/site/1.json", b"second")
    assert bucket.get_object(Bucket="figures", Key="run/site/1.json")["Body"].read() == b"first"


def test_bucket_that_is_not_there_is_an_oserror(bucket: Any) -> None:
    """Which costs the site a warning and not a round."""
    store = metrics.open_store("s3://nobody", "")
    assert store is not None
    with pytest.raises(OSError, match="nobody"):
        store.put("run/site/1.json", b"x")
