"""The certificates and keys of one home.

`ensure` may run at every start: it makes what is missing, renews what is about to end, and leaves
the rest alone. Private keys are readable by nobody else, the authority's included: who reads
`ca.key` can be anybody, which is why this is for one machine.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from aegis.local.authority import CERTIFICATE_DAYS, Authority, Names, ensure_pair, read_pair
from aegis.local.keys import ensure_signing_keys, ensure_token_keys, write_private
from aegis.local.sockets import private_directory
from aegis.spiffe import spiffe_id

# File name -> policy subject.
PROGRAMS: Mapping[str, str] = {
    "witness": "witness:local",
    "server": "server:aegis",
    "executor": "executor:local",
    "coordinator": "service:coordinator",
    "admin": "user:admin",
    "autopilot": "automation:autopilot",
}


# Signs for participants, and for nobody else; only the server trusts it.
PARTICIPANTS = "participants-ca"


def ensure(
    folder: Path, *, trust_domain: str = "aegis.local", now: datetime | None = None
) -> list[str]:
    """Makes or renews everything in `folder`; returns the names of the files it wrote."""
    now = now or datetime.now(UTC)
    private_directory(folder)
    written: list[str] = []
    pair = read_pair(folder, "ca")
    if pair is not None and pair.lasts(now):
        authority = Authority(folder, pair)
    else:
        authority = Authority.create(folder, now, written)
    authority.ensure_list(now, written)
    ensure_pair(folder, PARTICIPANTS, now, written)
    for name, subject in PROGRAMS.items():
        names = Names(spiffe_id(subject, trust_domain), ("localhost",), ("127.0.0.1",))
        if not _is_good(folder, name, names, authority, now):
            authority.issue(name, names, now, written, days=CERTIFICATE_DAYS)
    ensure_signing_keys(folder, now, written)
    ensure_token_keys(folder, written)
    for name in ("cache.key", "blob.key"):
        if not (folder / name).exists():
            write_private(folder / name, secrets.token_bytes(32), written)
    return written


def _is_good(folder: Path, name: str, names: Names, authority: Authority, now: datetime) -> bool:
    pair = read_pair(folder, name)
    if pair is None or not pair.lasts(now) or not authority.has_issued(pair.certificate):
        return False
    revoked = {each.serial_number for each in authority.revoked()}
    try:
        named = Names.of(pair.certificate).spiffe_id == names.spiffe_id
    except (ValueError, x509.ExtensionNotFound):
        return False
    return named and pair.certificate.serial_number not in revoked
