"""What the program and its workers say to each other over pipes: a header of JSON, and bytes."""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO

_LENGTHS = struct.Struct(">IQ")
_HEADER_MAX = 1024 * 1024


class FrameError(ValueError):
    """What came is no frame, or one that is too large."""


def write(stream: BinaryIO, header: dict[str, Any], content: bytes = b"") -> None:
    """Sends one frame; raises OSError when nobody reads."""
    head = json.dumps(header).encode()
    stream.write(_LENGTHS.pack(len(head), len(content)))
    stream.write(head)
    stream.write(content)
    stream.flush()


def read(stream: BinaryIO, *, content_max: int) -> tuple[dict[str, Any], bytes]:
    """Waits for one frame; raises EOFError when there is none to come, and `FrameError`."""
    head_size, content_size = _LENGTHS.unpack(_exactly(stream, _LENGTHS.size))
    if head_size > _HEADER_MAX or content_size > content_max:
        raise FrameError(f"a frame of {head_size} and {content_size} bytes is too large")
    try:
        header = json.loads(_exactly(stream, head_size))
    except ValueError as error:
        raise FrameError("the header is no JSON") from error
    if not isinstance(header, dict):
        raise FrameError("the header is no object")
    return header, _exactly(stream, content_size)


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data
