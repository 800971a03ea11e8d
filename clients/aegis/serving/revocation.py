"""Certificates that count no longer: a revocation list (RFC 5280, section 5) in a file.

The file is looked at every second. New calls by a revoked certificate are refused, also those on
connections that are open already, and open streams are ended: within two seconds of the file's
change. A list that cannot be used leaves the last good one in place; one past its next update goes
on counting, because forgetting who was revoked would be worse, and the log says that it is old.

Who was revoked once stays so for as long as the program runs: an older list, signed as well as any,
brings nobody back, nor does one without those that a retired authority had revoked.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from aegis.errors import AegisError, Unauthenticated
from aegis.serving.doors import Authenticate, Peer
from aegis.serving.tls import TlsFiles
from aegis.spiffe import Caller, certificate_name

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_BEGIN = b"-----BEGIN X509 CRL-----"
_LIST = re.compile(_BEGIN + rb".+?-----END X509 CRL-----\n?", re.DOTALL)


class Revocations:
    """What the revocation list beside a port's certificate says; without one, nothing is revoked.

    Raises OSError or ValueError when a list that is named cannot be used at the start.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._file = files.revoked
        self._roots = files.roots
        self._seen: tuple[int, ...] = ()
        self._broken = False
        self._revoked: frozenset[str] = frozenset()
        if self._file is not None:
            self._seen = _versions(self._file, self._roots)
            self._revoked = read(self._file, self._roots)

    def refusal(self, caller: Caller) -> AegisError | None:
        """Returns why a caller does not count any more, or None."""
        if caller.method != "certificate" or caller.credential not in self._revoked:
            return None
        return Unauthenticated("CREDENTIAL_REVOKED", "the certificate was revoked")

    def guard(self, authenticate: Authenticate) -> Authenticate:
        """Returns `authenticate`, refusing whoever shows a revoked certificate."""

        async def guarded(method: str, peer: Peer) -> Caller:
            caller = await authenticate(method, peer)
            if (error := self.refusal(caller)) is not None:
                raise error
            return caller

        return guarded

    async def run(self, expel: Callable[[Callable[[Caller], AegisError | None]], int]) -> None:
        """Follows the file until cancelled; `expel` ends the open streams of who is refused."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if self._look():
                ended = expel(self.refusal)
                log.info("%d certificates are revoked, %d calls ended", len(self._revoked), ended)

    def _look(self) -> bool:
        """Reads the file if it has changed; returns whether it says something else now."""
        if self._file is None:
            return False
        try:
            seen = _versions(self._file, self._roots)
            if seen == self._seen and not self._broken:
                return False
            self._seen, revoked = seen, read(self._file, self._roots)
        except (OSError, ValueError) as error:
            if not self._broken:
                log.warning("keeping the old revocation list: %s", error)
            self._broken = True
            return False
        self._broken = False
        before, self._revoked = self._revoked, self._revoked | revoked
        if missing := before - revoked:
            log.info("%d certificates are listed no more, and stay revoked", len(missing))
        return self._revoked != before


def read(file: Path, roots: Path, *, now: datetime | None = None) -> frozenset[str]:
    """Returns the names (`certificate_name`) of the certificates that a file of lists revokes.

    Every list must be signed by one of the roots. Raises OSError, or ValueError saying what is
    wrong with which list.
    """
    now = now or datetime.now(UTC)
    authorities = x509.load_pem_x509_certificates(roots.read_bytes())
    data = file.read_bytes()
    found = _LIST.findall(data)
    if not found:
        raise ValueError(f"{file} holds no revocation list in PEM")
    if len(found) != data.count(_BEGIN):
        # Half a copy must not be taken for all of it: whom the rest revokes would count.
        raise ValueError(f"{file} ends in the middle of a revocation list")
    names: set[str] = set()
    for number, pem in enumerate(found, 1):
        listed = x509.load_pem_x509_crl(pem)
        if not any(_is_signed_by(listed, authority) for authority in authorities):
            raise ValueError(f"list {number} of {file} is not signed by any of the roots")
        until = listed.next_update_utc
        if until is not None and until < now:
            log.warning("list %d of %s should have been replaced by %s", number, file, until)
        names |= {certificate_name(listed.issuer, each.serial_number) for each in listed}
    return frozenset(names)


def _is_signed_by(listed: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    if listed.issuer != authority.subject:
        return False
    try:
        return listed.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return False


def _versions(*files: Path) -> tuple[int, ...]:
    stats = [file.stat() for file in files]
    return tuple(number for each in stats for number in (each.st_mtime_ns, each.st_ino))
