"""API keys: how a program without a certificate proves who it is.

    from aegis.bearer import ApiKey
    from aegis.channel import connect

    key = ApiKey(roots=Path("ca.crt"), file=Path("/run/secrets/aegis"))
    async with connect("control.example.org:8444", key) as channel:
        ...

A key in a file is looked at before each call, so that a rotated one counts without a restart; while
the file cannot be read, the last key goes on. A key never goes over a connection without TLS.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc

FILE_VARIABLE = "AEGIS_API_KEY_FILE"
TEXT_VARIABLE = "AEGIS_API_KEY"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key in `file` or, where there is none, `text`; and PEM roots the server must chain to."""

    roots: Path
    file: Path | None = None
    text: str = field(default="", repr=False)

    @classmethod
    def from_environment(
        cls, roots: Path, environment: Mapping[str, str] = os.environ
    ) -> ApiKey | None:
        """Returns the key that AEGIS_API_KEY_FILE, or else AEGIS_API_KEY, holds, or None."""
        if file := environment.get(FILE_VARIABLE):
            return cls(roots, Path(file))
        if text := environment.get(TEXT_VARIABLE):
            return cls(roots, text=text)
        return None

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads roots and key; raises OSError for a missing file, ValueError for what is no key."""
        tls = grpc.ssl_channel_credentials(root_certificates=self.roots.read_bytes())
        if self.file is None:
            calls = grpc.access_token_call_credentials(_checked(self.text, TEXT_VARIABLE))
        else:
            calls = grpc.metadata_call_credentials(_FromFile(self.file))
        return grpc.composite_channel_credentials(tls, calls)


class _FromFile(grpc.AuthMetadataPlugin):
    """Shows what is in a file now; called by gRPC before each call, on a thread of its own."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen = _version(file)
        self._key = _read(file)

    def __call__(
        self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback
    ) -> None:
        try:
            seen = _version(self._file)
            if seen != self._seen:
                self._key, self._seen = _read(self._file), seen
        except (OSError, ValueError):
            # In the middle of being replaced, most likely; the server will say if it is too late.
            pass
        callback((("authorization", f"Bearer {self._key}"),), None)


def _version(file: Path) -> tuple[int, int, int]:
    found = file.stat()
    return (found.st_mtime_ns, found.st_ino, found.st_size)


def _read(file: Path) -> str:
    return _checked(file.read_text(errors="replace"), str(file))


def _checked(text: str, where: str) -> str:
    """Returns a key; the message of the ValueError never says what there is instead."""
    key = text.strip()
    if not key or not key.isascii() or not key.isprintable():
        raise ValueError(f"{where} holds no API key")
    return key
