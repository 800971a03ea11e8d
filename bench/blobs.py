"""How long 40 MB take to be stored and read, with and without encryption, median of seven.

    python bench/blobs.py [FOLDER]

`plain` is a file and its SHA-256; `blob` is the whole store.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path

from aegis_server.objects.blobs import BlobStore
from aegis_server.objects.folder import Folder
from aegis_server.objects.keys import LocalKeys

_BYTES, _TIMES = 40_000_000, 7


async def milliseconds(act: Awaitable[object]) -> float:
    begun = time.perf_counter()
    await act
    return 1000 * (time.perf_counter() - begun)


async def main(folder: Path) -> None:
    (folder / "key").write_bytes(os.urandom(32))
    place = Folder(folder / "objects")
    blobs = BlobStore(place, LocalKeys(folder / "key"))

    def write(data: bytes) -> None:
        place.put(hashlib.sha256(data).hexdigest(), data)

    def read(sha256: bytes) -> None:
        assert hashlib.sha256(place.get(sha256.hex(), length=2 * _BYTES)).digest() == sha256

    figures: dict[str, list[float]] = {}
    for _ in range(_TIMES):
        data = os.urandom(_BYTES)
        sha256 = hashlib.sha256(data).digest()
        for what, act in (
            ("put plain", asyncio.to_thread(write, data)),
            ("get plain", asyncio.to_thread(read, sha256)),
            ("put blob", blobs.put(data)),
            ("get blob", blobs.get(sha256)),
        ):
            figures.setdefault(what, []).append(await milliseconds(act))
        for found in list(place.list("")):
            (folder / "objects" / found.name).unlink()
    for what, values in figures.items():
        print(f"{what:10} {statistics.median(values):6.0f} ms  (worst {max(values):.0f})")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if sys.argv[1:] else None) as scratch:
        asyncio.run(main(Path(scratch)))
