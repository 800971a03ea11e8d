"""A store of blobs with a key of its own beside it, and S3 and KMS on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from moto.server import ThreadedMotoServer

from aegis_server.objects.blobs import BlobStore
from aegis_server.objects.folder import Folder
from aegis_server.objects.keys import LocalKeys

_NOBODY = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def key_file(file: Path, keys: int = 1) -> Path:
    """Writes fresh keys into a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(os.urandom(32 * keys))
    return file


def blobs_in(folder: Path) -> BlobStore:
    """Returns the store in a folder; its key lies beside, and is made the first time."""
    key = folder.parent / f"{folder.name}.key"
    return BlobStore(Folder(folder), LocalKeys(key if key.exists() else key_file(key)))


@contextmanager
def aws() -> Iterator[str]:
    """Serves S3 and KMS at an address of this machine, to whoever comes."""
    with patch.dict(os.environ, _NOBODY):
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        try:
            host, port = server.get_host_and_port()
            yield f"http://{host}:{port}"
        finally:
            server.stop()
