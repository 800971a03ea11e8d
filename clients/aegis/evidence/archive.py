"""The one way files become a bundle, byte for byte: a ZIP of stored entries.

Any program opens it, but not every ZIP is one. Names are sorted and have no folders, times are
1980-01-01, nothing is compressed, and there is no byte besides: no comment, no extra field, nothing
before, between or behind. So equal files make equal bundles whatever wrote them; a bundle cannot
unpack into more than it weighs, or beside the folder it is unpacked into; and no two programs can
see different files in it. Layout: PKWARE APPNOTE 6.3.10, sections 4.3.7, 4.3.12 and 4.3.16.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Mapping

BUNDLE_BYTES_MAX = 32 * 1024 * 1024
_FILES_MAX = 64
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

_LOCAL = struct.Struct("<4s5H3I2H")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_LOCAL_MARK, _ENTRY_MARK, _END_MARK = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_VERSION, _STORED = 10, 0
# Made on Unix, a plain file that everybody may read.
_MADE_BY, _MODE = 3 << 8 | _VERSION, 0o100644 << 16
_TIME, _DATE = 0, 1 << 5 | 1


class ArchiveError(ValueError):
    """These bytes are no bundle; the message says where."""


def pack(files: Mapping[str, bytes]) -> bytes:
    """Returns the bundle of these files; ValueError for names or sizes it cannot have."""
    if len(files) > _FILES_MAX or sum(map(len, files.values())) > BUNDLE_BYTES_MAX:
        raise ValueError("too many files, or too large, for one bundle")
    body, directory = bytearray(), bytearray()
    for name in sorted(files):
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} is no name of a file in a bundle")
        data, encoded = files[name], name.encode()
        what = (_STORED, _TIME, _DATE, zlib.crc32(data), len(data), len(data), len(encoded), 0)
        directory += _ENTRY.pack(
            _ENTRY_MARK, _MADE_BY, _VERSION, 0, *what, 0, 0, 0, _MODE, len(body)
        )
        directory += encoded
        body += _LOCAL.pack(_LOCAL_MARK, _VERSION, 0, *what) + encoded + data
    count = len(files)
    end = _END.pack(_END_MARK, 0, 0, count, count, len(directory), len(body), 0)
    return bytes(body + directory + end)


def unpack(data: bytes) -> dict[str, bytes]:
    """Returns the files of a bundle in their order; nothing is inflated, nothing is written.

    Only the files' own bytes may differ from what `pack` made: whether they are right is told by
    their digests, which name the file, and not by checksums. Raises `ArchiveError`.
    """
    if len(data) > BUNDLE_BYTES_MAX:
        raise ArchiveError(f"it has more than {BUNDLE_BYTES_MAX} bytes")
    files: dict[str, bytes] = {}
    at = 0
    while data[at : at + 4] == _LOCAL_MARK:
        name, start, size = _local(data, at)
        if name in files:
            raise ArchiveError(f"{name} is there twice")
        if len(files) == _FILES_MAX:
            raise ArchiveError(f"it has more than {_FILES_MAX} files")
        at = start + size
        if at > len(data):
            raise ArchiveError(f"it ends in the middle of {name}")
        files[name] = data[start:at]
    if not files:
        raise ArchiveError("it is no ZIP file")
    if data[at : at + 4] not in (_ENTRY_MARK, b""):
        raise ArchiveError(f"there is something behind {list(files)[-1]} that is no file")
    return files


def is_canonical(data: bytes, files: Mapping[str, bytes]) -> bool:
    """Says whether a bundle has exactly the bytes that a bundle of these files has."""
    return pack(files) == data


def _local(data: bytes, at: int) -> tuple[str, int, int]:
    """Returns name, begin and size of the file whose header is at this place."""
    try:
        _, _, flags, method, _, _, _, stored, size, length, extra = _LOCAL.unpack_from(data, at)
    except struct.error:
        raise ArchiveError("it ends in the middle of a header") from None
    start = at + _LOCAL.size + length
    name = data[at + _LOCAL.size : start].decode("ascii", "replace")
    if _NAME.fullmatch(name) is None:
        raise ArchiveError(f"{name[:64]!r} is no name of a file in a bundle")
    if method != _STORED or stored != size:
        raise ArchiveError(f"{name} is compressed, which nothing in a bundle is")
    if flags or extra:
        raise ArchiveError(f"the header of {name} is not one of a bundle")
    return name, start, size
