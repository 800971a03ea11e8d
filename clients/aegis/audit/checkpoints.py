"""Checkpoints: what a log was at a size, signed so that nobody can deny it later.

The form is C2SP's: a signed note (https://c2sp.org/signed-note) whose body is a tlog checkpoint
(https://c2sp.org/tlog-checkpoint), with two extension lines of ours:

    aegis-server                                  origin, our log_id
    1024                                          number of records
    qK8/…=                                        root of the tree, base64
    chain 9f3c…                                   chain hash of the last record, hex
    time 2026-03-02T12:00:00.000000Z              when it was cut

    — aegis-server sXk2…=                         Ed25519 by the log's key
    — aegis-witness 1fP0…=                        cosignatures (https://c2sp.org/tlog-cosignature)
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_ED25519 = b"\x01"
_COSIGNATURE = b"\x04"
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
_DASH = "\u2014"
_SIGNATURE = re.compile(rf"{_DASH} (\S+) (\S+)")
_BODY = re.compile(
    r"(?P<origin>[a-z0-9][a-z0-9._/-]{0,63})\n"
    r"(?P<size>0|[1-9][0-9]{0,18})\n"
    r"(?P<root>[A-Za-z0-9+/]{43}=)\n"
    r"chain (?P<chain>[0-9a-f]{64})\n"
    r"time (?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)\n"
)
_SIGNATURES_MAX = 16


class CheckpointError(ValueError):
    """A note that is no checkpoint of ours, or whose signature does not hold; `check` says which.

    `check` is "form", "origin", "key" (no signature by that key) or "signature".
    """

    def __init__(self, check: str, text: str) -> None:
        super().__init__(text)
        self.check = check


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a log at a size; hashes of 32 bytes, an aware time."""

    log_id: str
    size: int
    root: bytes
    chain: bytes
    time: datetime

    def body(self) -> str:
        """Returns the text that is signed."""
        root = base64.b64encode(self.root).decode()
        time = self.time.astimezone(UTC).strftime(_TIME)
        return f"{self.log_id}\n{self.size}\n{root}\nchain {self.chain.hex()}\ntime {time}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A parsed, still unverified note: its body, the checkpoint in it, and its signature lines."""

    body: str
    checkpoint: Checkpoint
    signatures: tuple[tuple[str, bytes], ...]

    @property
    def text(self) -> str:
        """The whole note."""
        lines = (
            f"{_DASH} {name} {base64.b64encode(raw).decode()}\n" for name, raw in self.signatures
        )
        return f"{self.body}\n{''.join(lines)}"


def sign(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> str:
    """Returns the note of a checkpoint, signed by the log's key."""
    body = checkpoint.body()
    raw = key_hash(checkpoint.log_id, key.public_key()) + key.sign(body.encode())
    return Note(body, checkpoint, ((checkpoint.log_id, raw),)).text


def parse(note: str) -> Note:
    """Takes a note apart; raises `CheckpointError` ("form") for anything but a checkpoint."""
    body, found, rest = note.partition("\n\n")
    match = _BODY.fullmatch(body + "\n")
    lines = rest.splitlines()
    if not found or match is None or not 1 <= len(lines) <= _SIGNATURES_MAX:
        raise CheckpointError("form", "this is no signed checkpoint")
    try:
        checkpoint = Checkpoint(
            log_id=match["origin"],
            size=int(match["size"]),
            root=base64.b64decode(match["root"], validate=True),
            chain=bytes.fromhex(match["chain"]),
            time=datetime.strptime(match["time"], _TIME).replace(tzinfo=UTC),
        )
        signatures = tuple(map(_signature, lines))
    except (ValueError, binascii.Error) as error:
        raise CheckpointError("form", "this is no signed checkpoint") from error
    parsed = Note(match[0], checkpoint, signatures)
    if parsed.text != note:
        raise CheckpointError("form", "the note is not written in its one canonical form")
    return parsed


def verify(note: str, log_id: str, key: Ed25519PublicKey) -> Checkpoint:
    """Returns the checkpoint of a note that the log's key has signed; raises `CheckpointError`."""
    parsed = parse(note)
    if parsed.checkpoint.log_id != log_id:
        raise CheckpointError("origin", f"a checkpoint of {parsed.checkpoint.log_id}, not {log_id}")
    _verify(parsed, log_id, key_hash(log_id, key), key, parsed.body.encode(), prefix=0)
    return parsed.checkpoint


def uncosigned(note: str) -> str:
    """Returns a note with the signatures of nobody but its log."""
    parsed = parse(note)
    own = tuple(each for each in parsed.signatures if each[0] == parsed.checkpoint.log_id)
    return Note(parsed.body, parsed.checkpoint, own).text


def cosign(note: str, name: str, key: Ed25519PrivateKey, now: datetime) -> str:
    """Returns a witness' signature line for a note, saying when it saw it."""
    stamp = int(now.timestamp())
    message = _cosigned(parse(note).body, stamp)
    raw = key_hash(name, key.public_key(), _COSIGNATURE) + struct.pack(">Q", stamp)
    return f"{_DASH} {name} {base64.b64encode(raw + key.sign(message)).decode()}\n"


def verify_cosignature(note: str, name: str, key: Ed25519PublicKey) -> datetime:
    """Returns when a witness has cosigned a note; raises `CheckpointError`."""
    parsed = parse(note)
    wanted = key_hash(name, key, _COSIGNATURE)
    for signer, raw in parsed.signatures:
        if signer == name and raw[:4] == wanted and len(raw) == 4 + 8 + 64:
            stamp = struct.unpack(">Q", raw[4:12])[0]
            message = _cosigned(parsed.body, stamp)
            _verify(parsed, name, wanted, key, message, prefix=8)
            try:
                return datetime.fromtimestamp(stamp, UTC)
            except (ValueError, OverflowError, OSError) as error:
                raise CheckpointError("form", f"{name} signed at no time there is") from error
    raise CheckpointError("key", f"the note carries no cosignature of {name}")


def key_hash(name: str, key: Ed25519PublicKey, kind: bytes = _ED25519) -> bytes:
    """Returns the four bytes by which a signature names its key."""
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return hashlib.sha256(name.encode() + b"\n" + kind + raw).digest()[:4]


def _cosigned(body: str, stamp: int) -> bytes:
    return f"cosignature/v1\ntime {stamp}\n{body}".encode()


def _signature(line: str) -> tuple[str, bytes]:
    match = _SIGNATURE.fullmatch(line)
    if match is None:
        raise ValueError("no signature line")
    return match[1], base64.b64decode(match[2], validate=True)


def _verify(
    note: Note, name: str, wanted: bytes, key: Ed25519PublicKey, message: bytes, *, prefix: int
) -> None:
    for signer, raw in note.signatures:
        if signer == name and raw[:4] == wanted:
            try:
                key.verify(raw[4 + prefix :], message)
            except InvalidSignature:
                raise CheckpointError(
                    "signature", f"the signature of {name} does not hold"
                ) from None
            return
    raise CheckpointError("key", f"the note is not signed by this key of {name}")
