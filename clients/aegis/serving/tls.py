"""mTLS credentials for a server port.

The files are looked at before every handshake, so certificates and roots rotate without a
restart. A pair that cannot be read never breaks the port: the last good one goes on.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509

from aegis.channel import Identity

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of a PEM certificate, its key, the roots peers must chain to, and what they revoked.

    `more_roots` count for who calls us, and for nobody whom we call.
    """

    certificate: Path
    key: Path
    roots: Path
    revoked: Path | None = None
    more_roots: Path | None = None

    def versions(self) -> tuple[int, ...]:
        """Changes whenever one of the files does."""
        files = (self.certificate, self.key, self.roots, self.more_roots)
        return tuple(path.stat().st_mtime_ns for path in files if path is not None)

    def callers_roots(self) -> bytes:
        """Returns the roots that who calls us must chain to."""
        more = self.more_roots.read_bytes() if self.more_roots is not None else b""
        return self.roots.read_bytes() + b"\n" + more


class _Reloading:
    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._versions = files.versions()

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        pair = (self._files.key.read_bytes(), self._files.certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration(
            [pair], root_certificates=self._files.callers_roots()
        )

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        # Called by gRPC at every handshake; an exception here would refuse every peer.
        try:
            versions = self._files.versions()
            if versions == self._versions:
                return None
            files = self._files
            Identity(files.certificate, files.key, files.roots).check()
            x509.load_pem_x509_certificates(files.callers_roots())
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
