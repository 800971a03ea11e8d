"""h2load as a gRPC client: one body, sent for some seconds from a few connections.

    from h2load import h2load

It comes with Debian's nghttp2-client. It neither shows a client certificate nor looks at
grpc-status, so programs that use this check a few answers with a real stub before and after.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import struct
import tempfile
from pathlib import Path

from replay import Load, Played

_COUNTS = re.compile(r"requests: (\d+) total, (\d+) started, (\d+) done, (\d+) succeeded")
_FINISHED = re.compile(r"finished in ([\d.]+)(m?s|us),")


def available() -> bool:
    """Says whether it is installed."""
    return shutil.which("h2load") is not None


async def h2load(load: Load, body: bytes, seconds: float) -> Played:
    """Sends `body` for so long; raises RuntimeError with what it printed when it cannot."""
    with tempfile.TemporaryDirectory(prefix="aegis-bench-") as scratch:
        file, log = Path(scratch) / "body", Path(scratch) / "log"
        file.write_bytes(b"\0" + struct.pack(">I", len(body)) + body)
        headers = ["content-type: application/grpc", "te: trailers"]
        if load.authorization:
            headers.append(f"authorization: {load.authorization}")
        scheme = "https" if load.roots is not None else "http"
        process = await asyncio.create_subprocess_exec(
            "h2load",
            *("-c", str(load.connections), "-m", str(load.streams), "-t", "1"),
            # Or it would open its connections in the measured time.
            *("-D", f"{round(seconds * 1000)}ms", "--warm-up-time", "200ms"),
            *("-d", str(file), f"--log-file={log}"),
            *(word for header in headers for word in ("-H", header)),
            f"{scheme}://{load.address}{load.path}",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        text = (await process.communicate())[0].decode()
        counts, finished = _COUNTS.search(text), _FINISHED.search(text)
        if process.returncode or counts is None or finished is None:
            raise RuntimeError(f"h2load failed:\n{text[-2000:]}")
        rows = [line.split("\t") for line in log.read_text().splitlines()]
    took = [int(row[2]) / 1e3 for row in rows if row[1] == "200"]
    return Played(
        seconds=float(finished[1]) * {"s": 1, "ms": 1e-3, "us": 1e-6}[finished[2]],
        milliseconds=took,
        failed=len(rows) - len(took),
        sent=len(rows),
    )
