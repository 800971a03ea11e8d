"""The manifest of a bundle: whose evidence it is and what every file's digest is, signed.

manifest.json is for people and programs; manifest.dsse carries the very same bytes in a DSSE
envelope (https://github.com/secure-systems-lab/dsse, its JSON form), signed by a key of the server
that signs nothing else: `review-evidence` in a trust bundle.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aegis import dsse
from aegis.algorithms import PrivateKey
from aegis.errors import AegisError
from aegis.trust import REVIEW_EVIDENCE, TrustBundle, TrustedKey
from aegis.v1 import envelope_pb2

EVIDENCE, PAGE = "evidence.json", "index.html"
MANIFEST, SIGNED = "manifest.json", "manifest.dsse"
FORMAT = "aegis-review-bundle/1"
PAYLOAD_TYPE = "application/vnd.aegis.review-evidence.v1+json"


class ManifestError(ValueError):
    """This is no manifest; the message says what is wrong with it."""


class SignatureError(ValueError):
    """The manifest is not signed by a key that counts."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of a bundle."""

    sha256: bytes
    size_bytes: int

    @classmethod
    def of(cls, data: bytes) -> FileEntry:
        """Returns what a manifest says of a file with these bytes."""
        return cls(hashlib.sha256(data).digest(), len(data))


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the server signs: about which update, judged when, and which files.

    `verdict` is the examiners'; people may have decided otherwise since. `evidence_sha256` is also
    in the audit record of the verdict. `files` are all but the manifest's own two.
    """

    update_id: str
    update_sha256: bytes
    run_id: str
    round: int
    attempt: int
    participant: str
    verdict: str
    review_time: datetime
    create_time: datetime
    evidence_sha256: bytes
    files: Mapping[str, FileEntry]

    def encode(self) -> bytes:
        """Returns the file: JSON, names sorted, equal for equal manifests."""
        document = {
            "format": FORMAT,
            "update_id": self.update_id,
            "update_sha256": self.update_sha256.hex(),
            "run_id": self.run_id,
            "round": self.round,
            "attempt": self.attempt,
            "participant": self.participant,
            "verdict": self.verdict,
            "review_time": self.review_time.isoformat(),
            "create_time": self.create_time.isoformat(),
            "evidence_sha256": self.evidence_sha256.hex(),
            "files": {
                name: {"sha256": entry.sha256.hex(), "size_bytes": entry.size_bytes}
                for name, entry in self.files.items()
            },
        }
        return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Reads what `encode` made; raises `ManifestError`."""
        document = _object(data)
        if document.get("format") != FORMAT:
            raise ManifestError(f"its format is not {FORMAT}")
        try:
            manifest = cls(
                update_id=str(document["update_id"]),
                update_sha256=bytes.fromhex(document["update_sha256"]),
                run_id=str(document["run_id"]),
                round=int(document["round"]),
                attempt=int(document["attempt"]),
                participant=str(document["participant"]),
                verdict=str(document["verdict"]),
                review_time=_aware(document["review_time"]),
                create_time=_aware(document["create_time"]),
                evidence_sha256=bytes.fromhex(document["evidence_sha256"]),
                files={
                    str(name): FileEntry(bytes.fromhex(entry["sha256"]), int(entry["size_bytes"]))
                    for name, entry in document["files"].items()
                },
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ManifestError(f"a field is missing or wrong: {error!r}") from error
        if manifest.encode() != data:
            # Fields this program does not know would go unchecked.
            raise ManifestError("it says more than a manifest of this format does")
        return manifest


def sign(manifest: bytes, key: PrivateKey) -> bytes:
    """Returns the envelope of these bytes, as JSON."""
    envelope = dsse.sign(PAYLOAD_TYPE, manifest, key)
    document = {
        "payload": base64.b64encode(envelope.payload).decode(),
        "payloadType": envelope.payload_type,
        "signatures": [
            {"keyid": each.key_id, "sig": base64.b64encode(each.sig).decode()}
            for each in envelope.signatures
        ],
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def open_signed(data: bytes, trust: TrustBundle) -> tuple[bytes, TrustedKey]:
    """Returns the manifest's bytes, now proven, and the key that signed them.

    The key has to have been usable when the manifest says it was made. Raises `SignatureError`, or
    `ManifestError` for a payload that is no manifest.
    """
    envelope = _envelope(data)
    # Read before it is proven, for the time only: which keys counted then decides what is proven.
    created = Manifest.decode(envelope.payload).create_time
    try:
        return dsse.verify(envelope, PAYLOAD_TYPE, trust.finder(REVIEW_EVIDENCE, created))
    except AegisError as error:
        raise SignatureError(error.message) from error


def _envelope(data: bytes) -> envelope_pb2.SignedEnvelope:
    try:
        document = _object(data)
        signatures = [
            envelope_pb2.Signature(
                key_id=each["keyid"], sig=base64.b64decode(each["sig"], validate=True)
            )
            for each in document["signatures"]
        ]
        return envelope_pb2.SignedEnvelope(
            payload=base64.b64decode(document["payload"], validate=True),
            payload_type=document["payloadType"],
            signatures=signatures,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SignatureError("it is no DSSE envelope") from error


def _object(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"it is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise ManifestError("it is no JSON object")
    return document


def _aware(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return moment
