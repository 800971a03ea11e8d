"""Whose signatures count: the public keys a program was given, each with one use.

A trust bundle is a JSON file that lists them:

    {"version": 7,
     "keys": [{"usage": "action-request", "algorithm": "ed25519", "owner": "automation:autopilot",
               "public_key": "<base64 of the SPKI>", "not_before": "2026-01-01T00:00:00+00:00",
               "not_after": "2027-01-01T00:00:00+00:00", "revoked_at": null}]}

The entry of a shared secret (hmac-sha256) has its "key_id" instead of a public key; the secret is
in a file of that name, where a program was told of a folder for them. Beside the file lies
`FILE.sig`, the signature of the root that no program holds: base64 of an Ed25519 signature over the
DSSE encoding of the file's bytes.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
)

from aegis import algorithms, dsse
from aegis.algorithms import ALGORITHMS, ED25519, HMAC_SHA256, PublicKey, SharedSecret

ACTION_REQUEST = "action-request"
POLICY_DECISION = "policy-decision"
# Of an approver, and of the server that saw somebody approve.
ACTION_APPROVAL = "action-approval"
APPROVAL_ATTESTATION = "approval-attestation"
# Of the log whose owner is "log:LOG_ID", and of the witness "witness:NAME".
AUDIT_CHECKPOINT = "audit-checkpoint"
AUDIT_WITNESS = "audit-witness"
# Of the server, under the evidence of its reviews.
REVIEW_EVIDENCE = "review-evidence"
USAGES = (
    ACTION_REQUEST,
    POLICY_DECISION,
    ACTION_APPROVAL,
    APPROVAL_ATTESTATION,
    AUDIT_CHECKPOINT,
    AUDIT_WITNESS,
    REVIEW_EVIDENCE,
)
BUNDLE_TYPE = "application/vnd.aegis.trust-bundle.v1+json"
# Signed notes know Ed25519 only; and what everybody could forge decides nothing.
_ALGORITHMS_OF = {
    ACTION_REQUEST: ALGORITHMS,
    POLICY_DECISION: (ED25519, algorithms.ECDSA_P256),
    ACTION_APPROVAL: (ED25519, algorithms.ECDSA_P256),
    APPROVAL_ATTESTATION: (ED25519, algorithms.ECDSA_P256),
    AUDIT_CHECKPOINT: (ED25519,),
    AUDIT_WITNESS: (ED25519,),
    REVIEW_EVIDENCE: (ED25519,),
}


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key, its owner and the one thing it may sign.

    `public_key` is None for a shared secret that this program was not given: it never counts here.
    """

    key_id: str
    usage: str
    owner: str
    public_key: PublicKey | None
    not_before: datetime
    not_after: datetime
    revoked_at: datetime | None = None

    @property
    def algorithm(self) -> str:
        """What it signs with."""
        return HMAC_SHA256 if self.public_key is None else algorithms.algorithm_of(self.public_key)

    @property
    def note_key(self) -> Ed25519PublicKey:
        """The key of a log or a witness; TypeError for any other."""
        if not isinstance(self.public_key, Ed25519PublicKey):
            raise TypeError(f"{self.key_id} signs no notes")
        return self.public_key

    def usable(self, now: datetime) -> bool:
        """True inside its validity and before its revocation."""
        revoked = self.revoked_at is not None and self.revoked_at <= now
        return self.not_before <= now < self.not_after and not revoked

    def to_json(self) -> dict[str, str | None]:
        """Returns the form it has in a bundle file."""
        entry: dict[str, str | None] = {
            "usage": self.usage,
            "algorithm": self.algorithm,
            "owner": self.owner,
        }
        if self.public_key is None or isinstance(self.public_key, SharedSecret):
            entry["key_id"] = self.key_id
        else:
            spki = self.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            entry["public_key"] = base64.b64encode(spki).decode()
        return {
            **entry,
            "not_before": self.not_before.isoformat(),
            "not_after": self.not_after.isoformat(),
            "revoked_at": self.revoked_at.isoformat() if self.revoked_at else None,
        }


class TrustBundle:
    """The keys of one bundle file, by key id; `version` says which of two is newer."""

    def __init__(self, keys: tuple[TrustedKey, ...], version: int = 0) -> None:
        self.version = version
        self.keys = keys
        self._by_id = {(key.key_id, key.usage): key for key in keys}

    @classmethod
    def load(
        cls, path: Path, *, root: Ed25519PublicKey | None = None, secrets: Path | None = None
    ) -> TrustBundle:
        """Reads a bundle file, which `root` must have signed when there is one.

        `secrets` is the folder of shared secrets. Raises OSError, or ValueError naming the file and
        the entry when anything in it is not as described above: a bundle is trusted whole or not
        at all.
        """
        data = path.read_bytes()
        if root is not None:
            _check_root(path, data, root)
        try:
            found = json.loads(data)
            version, entries = found.get("version", 0), list(found["keys"])
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{path}: not a trust bundle: {error!r}") from error
        if type(version) is not int or version < 0:
            raise ValueError(f"{path}: not a trust bundle: its version is no number")
        keys: dict[str, TrustedKey] = {}
        for position, entry in enumerate(entries):
            try:
                key = _trusted_key(entry, secrets)
            except (KeyError, TypeError, ValueError, UnsupportedAlgorithm) as error:
                raise ValueError(f"{path}: key {position}: {error}") from error
            # A second entry could lift the first one's revocation, or give it a second use.
            if keys.setdefault(key.key_id, key) is not key:
                raise ValueError(f"{path}: key {position}: {key.key_id} is there already")
        return cls(tuple(keys.values()), version)

    def to_json(self) -> bytes:
        """Returns the file's bytes."""
        document = {"version": self.version, "keys": [key.to_json() for key in self.keys]}
        return json.dumps(document, indent=2).encode() + b"\n"

    def finder(
        self, usage: str, now: datetime
    ) -> Callable[[str], tuple[TrustedKey, PublicKey] | None]:
        """Returns the look-up `dsse.verify` wants: usable keys of this usage only."""

        def find(key_id: str) -> tuple[TrustedKey, PublicKey] | None:
            key = self._by_id.get((key_id, usage))
            if key is None or key.public_key is None or not key.usable(now):
                return None
            return key, key.public_key

        return find

    def of_owner(self, usage: str, owner: str) -> tuple[TrustedKey, ...]:
        """Returns every key of one owner and use, usable or not, the newest first."""
        found = (key for key in self.keys if (key.usage, key.owner) == (usage, owner))
        return tuple(sorted(found, key=lambda key: key.not_before, reverse=True))


def sign_bundle(data: bytes, root: Ed25519PrivateKey) -> bytes:
    """Returns what belongs into `FILE.sig` beside a bundle of these bytes."""
    return base64.b64encode(root.sign(dsse.pae(BUNDLE_TYPE, data))) + b"\n"


def signature_of(bundle: Path) -> Path:
    """Returns the file of a bundle's signature."""
    return bundle.with_name(f"{bundle.name}.sig")


def load_root(path: Path) -> Ed25519PublicKey:
    """Reads the root's public key in PEM; raises ValueError when it is not Ed25519."""
    key = load_pem_public_key(path.read_bytes())
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"{path} is not an Ed25519 public key")
    return key


def _check_root(path: Path, data: bytes, root: Ed25519PublicKey) -> None:
    try:
        signature = base64.b64decode(signature_of(path).read_bytes().strip(), validate=True)
        root.verify(signature, dsse.pae(BUNDLE_TYPE, data))
    except FileNotFoundError:
        raise ValueError(f"{path} is not signed: there is no {signature_of(path).name}") from None
    except (ValueError, InvalidSignature):
        raise ValueError(
            f"{path} is not signed by the root; after a change: aegis keys sign"
        ) from None


def _trusted_key(entry: dict[str, str | None], secrets: Path | None) -> TrustedKey:
    usage, algorithm = entry["usage"], entry["algorithm"]
    if usage not in USAGES:
        raise ValueError(f"usage {usage!r} is none of {', '.join(USAGES)}")
    if algorithm not in _ALGORITHMS_OF[usage]:
        raise ValueError(f"algorithm {algorithm!r} is not {' or '.join(_ALGORITHMS_OF[usage])}")
    key: PublicKey | None
    if algorithm == HMAC_SHA256:
        key_id, key = _shared_secret(str(entry["key_id"]), secrets)
    else:
        key_id, key = _public_key(str(entry["public_key"]), algorithm)
    revoked_at = entry.get("revoked_at")
    return TrustedKey(
        key_id=key_id,
        usage=usage,
        owner=str(entry["owner"]),
        public_key=key,
        not_before=_aware(str(entry["not_before"])),
        not_after=_aware(str(entry["not_after"])),
        revoked_at=_aware(revoked_at) if revoked_at else None,
    )


def _public_key(encoded: str, algorithm: str) -> tuple[str, PublicKey]:
    key = load_der_public_key(base64.b64decode(encoded, validate=True))
    if not isinstance(key, Ed25519PublicKey | ec.EllipticCurvePublicKey):
        raise ValueError(f"the public key is not one of {algorithm}")
    if algorithms.algorithm_of(key) != algorithm:
        raise ValueError(f"the public key is not one of {algorithm}")
    return algorithms.key_id(key), key


def _shared_secret(key_id: str, secrets: Path | None) -> tuple[str, SharedSecret | None]:
    if re.fullmatch("[0-9a-f]{16}", key_id) is None:
        raise ValueError("key_id is not 16 hex digits")
    if secrets is None or not (file := secrets / key_id).is_file():
        return key_id, None
    if file.stat().st_mode & 0o077:
        raise ValueError(f"{file} may be read by others: chmod 600")
    secret = SharedSecret(file.read_bytes())
    if algorithms.key_id(secret) != key_id:
        raise ValueError(f"{file} is not the secret of its name")
    return key_id, secret


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
