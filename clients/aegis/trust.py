"""Whose signatures count: the public keys a program was given, each with one use.

A trust bundle is a JSON file that lists them:

    {"keys": [{"usage": "action-request", "algorithm": "ed25519", "owner": "automation:autopilot",
               "public_key": "<base64 of the SPKI>", "not_before": "2026-01-01T00:00:00+00:00",
               "not_after": "2027-01-01T00:00:00+00:00", "revoked_at": null}]}
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)

from aegis import dsse

ACTION_REQUEST = "action-request"
POLICY_DECISION = "policy-decision"
# Of the log whose owner is "log:LOG_ID", and of the witness "witness:NAME".
AUDIT_CHECKPOINT = "audit-checkpoint"
AUDIT_WITNESS = "audit-witness"
USAGES = (ACTION_REQUEST, POLICY_DECISION, AUDIT_CHECKPOINT, AUDIT_WITNESS)


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key, its owner and the one thing it may sign."""

    key_id: str
    usage: str
    owner: str
    public_key: Ed25519PublicKey
    not_before: datetime
    not_after: datetime
    revoked_at: datetime | None = None

    def usable(self, now: datetime) -> bool:
        """True inside its validity and before its revocation."""
        revoked = self.revoked_at is not None and self.revoked_at <= now
        return self.not_before <= now < self.not_after and not revoked

    def to_json(self) -> dict[str, str | None]:
        """Returns the form it has in a bundle file."""
        spki = self.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return {
            "usage": self.usage,
            "algorithm": "ed25519",
            "owner": self.owner,
            "public_key": base64.b64encode(spki).decode(),
            "not_before": self.not_before.isoformat(),
            "not_after": self.not_after.isoformat(),
            "revoked_at": self.revoked_at.isoformat() if self.revoked_at else None,
        }


class TrustBundle:
    """The keys of one bundle file, by key id."""

    def __init__(self, keys: tuple[TrustedKey, ...]) -> None:
        self.keys = keys
        self._by_id = {(key.key_id, key.usage): key for key in keys}

    @classmethod
    def load(cls, path: Path) -> TrustBundle:
        """Reads a bundle file.

        Raises ValueError naming the file and the entry when anything in it is not as described
        above: a bundle is trusted whole or not at all.
        """
        try:
            entries = list(json.loads(path.read_text())["keys"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not a trust bundle: {error!r}") from error
        keys: dict[str, TrustedKey] = {}
        for position, entry in enumerate(entries):
            try:
                key = _trusted_key(entry)
            except (KeyError, TypeError, ValueError, UnsupportedAlgorithm) as error:
                raise ValueError(f"{path}: key {position}: {error}") from error
            # A second entry could lift the first one's revocation, or give it a second use.
            if keys.setdefault(key.key_id, key) is not key:
                raise ValueError(f"{path}: key {position}: {key.key_id} is there already")
        return cls(tuple(keys.values()))

    def finder(
        self, usage: str, now: datetime
    ) -> Callable[[str], tuple[TrustedKey, Ed25519PublicKey] | None]:
        """Returns the look-up `dsse.verify` wants: usable keys of this usage only."""

        def find(key_id: str) -> tuple[TrustedKey, Ed25519PublicKey] | None:
            key = self._by_id.get((key_id, usage))
            return (key, key.public_key) if key is not None and key.usable(now) else None

        return find

    def of_owner(self, usage: str, owner: str) -> tuple[TrustedKey, ...]:
        """Returns every key of one owner and use, usable or not, the newest first."""
        found = (key for key in self.keys if (key.usage, key.owner) == (usage, owner))
        return tuple(sorted(found, key=lambda key: key.not_before, reverse=True))


def _trusted_key(entry: dict[str, str | None]) -> TrustedKey:
    if entry["algorithm"] != "ed25519":
        raise ValueError(f"algorithm {entry['algorithm']!r} is not ed25519")
    if entry["usage"] not in USAGES:
        raise ValueError(f"usage {entry['usage']!r} is none of {', '.join(USAGES)}")
    public_key = load_der_public_key(base64.b64decode(str(entry["public_key"]), validate=True))
    if not isinstance(public_key, Ed25519PublicKey):
        raise ValueError("the public key is not Ed25519")
    revoked_at = entry.get("revoked_at")
    return TrustedKey(
        key_id=dsse.key_id(public_key),
        usage=str(entry["usage"]),
        owner=str(entry["owner"]),
        public_key=public_key,
        not_before=_aware(str(entry["not_before"])),
        not_after=_aware(str(entry["not_after"])),
        revoked_at=_aware(revoked_at) if revoked_at else None,
    )


def _aware(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return moment


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """Reads an unencrypted PKCS #8 PEM file; raises ValueError when it is not Ed25519."""
    key = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path} is not an Ed25519 private key")
    return key
