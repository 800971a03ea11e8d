"""mTLS credentials for a server port.

The files are looked at before every handshake, so certificates and roots rotate without a
restart. A pair that cannot be read never breaks the port: the last good one goes on.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import grpc

from aegis.channel import Identity

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of a PEM certificate, its key, the roots peers must chain to, and what they revoked."""

    certificate: Path
    key: Path
    roots: Path
    revoked: Path | None = None

    def versions(self) -> tuple[int, ...]:
        """Changes whenever one of the files does."""
        return tuple(p.stat().st_mtime_ns for p in (self.certificate, self.key, self.roots))


class _Reloading:
    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._versions = files.versions()

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        pair = (self._files.key.read_bytes(), self._files.certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration(
            [pair], root_certificates=self._files.roots.read_bytes()
        )

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        # Called by gRPC at every handshake; an exception here would refuse every peer.
        try:
            versions = self._files.versions()
            if versions == self._versions:
                return None
            files = self._files
            Identity(files.certificate, files.key, files.roots).check()
            fresh = self.configuration()
        except (OSError, ValueError) as error:
            log.warning("keeping the old certificate: %s", error)
            return None
        self._versions = versions
        return fresh


def server_credentials(
    files: TlsFiles, *, client_certificates: bool = True
) -> grpc.ServerCredentials:
    """Returns credentials that follow the files, and demand a client certificate or none."""
    reloading = _Reloading(files)
    return grpc.dynamic_ssl_server_credentials(
        reloading.configuration(),
        reloading.fetch,  # type: ignore[arg-type]  # None means unchanged, says gRPC's reference
        require_client_authentication=client_certificates,
    )
