"""The keys that sign decisions and requests, and the bundle that says whose signatures count."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from aegis import algorithms
from aegis.trust import (
    ACTION_REQUEST,
    APPROVAL_ATTESTATION,
    AUDIT_CHECKPOINT,
    AUDIT_WITNESS,
    POLICY_DECISION,
    REVIEW_EVIDENCE,
    TrustBundle,
    TrustedKey,
    load_private_key,
    sign_bundle,
    signature_of,
)

# Everything is renewed when a third of its life is left: one start a week suffices.
RENEW_AT = 1 / 3
# Clocks of one machine agree, but a resumed laptop may step back a little.
SKEW = timedelta(minutes=5)

_SIGNING_DAYS = 365


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A signing key's file, the one thing it signs, and whose it is."""

    file: str
    usage: str
    owner: str


SIGNING_KEYS = (
    SigningKey("decision.key", POLICY_DECISION, "server:aegis"),
    SigningKey("approval.key", APPROVAL_ATTESTATION, "server:aegis"),
    SigningKey("autopilot-signing.key", ACTION_REQUEST, "automation:autopilot"),
    SigningKey("server-audit.key", AUDIT_CHECKPOINT, "log:aegis-server"),
    SigningKey("executor-audit.key", AUDIT_CHECKPOINT, "log:aegis-executor"),
    SigningKey("witness-cosign.key", AUDIT_WITNESS, "witness:local"),
    SigningKey("evidence.key", REVIEW_EVIDENCE, "server:aegis"),
)


def ensure_signing_keys(folder: Path, now: datetime, written: list[str]) -> None:
    """Makes the signing keys, and lists their public halves beside what the bundle already has."""
    bundle = folder / "trust.json"
    before = TrustBundle.load(bundle) if bundle.exists() else TrustBundle(())
    listed = {(key.key_id, key.usage): key for key in before.keys}
    for wanted in SIGNING_KEYS:
        path = folder / wanted.file
        if not path.exists():
            write_private(path, pem(Ed25519PrivateKey.generate()), written)
        public_key = load_private_key(path).public_key()
        fresh = TrustedKey(
            key_id=algorithms.key_id(public_key),
            usage=wanted.usage,
            owner=wanted.owner,
            public_key=public_key,
            not_before=now - SKEW,
            not_after=now + timedelta(days=_SIGNING_DAYS),
        )
        place = (fresh.key_id, fresh.usage)
        known = listed.get(place)
        if known is None:
            listed[place] = fresh
        elif known.not_after - now < timedelta(days=_SIGNING_DAYS) * RENEW_AT:
            # Revoked stays revoked: only the end moves.
            listed[place] = replace(known, not_after=fresh.not_after)
    root = _ensure_root(folder, written)
    if tuple(listed.values()) != before.keys or not _is_signed(bundle, root):
        fresh_bundle = TrustBundle(tuple(listed.values()), before.version + 1)
        write_bundle(bundle, fresh_bundle, root, written)


def _is_signed(bundle: Path, root: Ed25519PrivateKey) -> bool:
    try:
        TrustBundle.load(bundle, root=root.public_key())
    except (OSError, ValueError):
        return False
    return True


def _ensure_root(folder: Path, written: list[str]) -> Ed25519PrivateKey:
    """Makes the root that signs the bundle; where there is a site, it is kept elsewhere."""
    private, public = folder / "trust-root.key", folder / "trust-root.pub"
    if not private.exists():
        write_private(private, pem(Ed25519PrivateKey.generate()), written)
        public.unlink(missing_ok=True)
    root = load_private_key(private)
    if not public.exists():
        spki = root.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        write_private(public, spki, written)
    return root


def write_bundle(
    path: Path, bundle: TrustBundle, root: Ed25519PrivateKey, written: list[str]
) -> None:
    """Replaces a bundle and its signature; whoever reads between the two keeps what it has."""
    data = bundle.to_json()
    write_private(path, data, written)
    write_private(signature_of(path), sign_bundle(data, root), written)


def ensure_token_keys(folder: Path, written: list[str]) -> None:
    """Makes the key that signs sessions; another one put before it in the file takes its place."""
    path = folder / "token-keys.json"
    if path.exists():
        return
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    numbers = key.private_numbers()
    public = numbers.public_numbers
    entry = {
        "kty": "EC",
        "crv": "P-256",
        "alg": "ES256",
        "use": "sig",
        "kid": hashlib.sha256(spki).hexdigest()[:16],
        "x": _base64url(public.x),
        "y": _base64url(public.y),
        "d": _base64url(numbers.private_value),
    }
    write_private(path, json.dumps({"keys": [entry]}, indent=2).encode() + b"\n", written)


def _base64url(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(32, "big")).decode().rstrip("=")


def pem(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    """Returns a private key as unencrypted PKCS #8."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write_private(path: Path, data: bytes, written: list[str]) -> None:
    """Replaces a file as a whole; nobody else may read it at any moment."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    fresh.rename(path)
    # A list of what was revoked must not be the old one again after a power cut.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    written.append(path.name)
