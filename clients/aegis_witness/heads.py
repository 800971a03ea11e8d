"""What the witness has seen: one small file a log, and the evidence of every refusal to continue.

Whoever runs the witness keeps this folder. It is all it knows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aegis.audit import checkpoints
from aegis.audit.checkpoints import Checkpoint, CheckpointError
from aegis.audit.merkle import roots_from_consistency
from aegis.audit.signers import open_checkpoint
from aegis.durable import replace_text
from aegis.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound
from aegis.trust import AUDIT_CHECKPOINT, TrustBundle

_EVIDENCE_MAX = 1000


class Heads:
    """Judges checkpoints and remembers those it cosigned.

    `trust` are the logs it listens to; `name` and `key` are how it signs.
    """

    def __init__(
        self,
        folder: Path,
        *,
        trust: TrustBundle,
        name: str,
        key: Ed25519PrivateKey,
        clock: Callable[[], datetime],
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._trust = trust
        self._name = name
        self._key = key
        self._clock = clock

    def newest(self, log_id: str) -> str:
        """Returns the last note that was cosigned, with that cosignature.

        Raises `NotFound`: LOG_UNKNOWN, or RESOURCE_NOT_FOUND before the first.
        """
        self._refuse_unknown(log_id)
        note = self._read(log_id)
        if note is None:
            raise NotFound("RESOURCE_NOT_FOUND", f"nothing was seen of {log_id}", resource=log_id)
        return note

    def add(self, note: str, old_size: int, proof: list[bytes]) -> str:
        """Returns our cosignature line for a note that continues the last one we saw.

        Raises `InvalidArgument` (CHECKPOINT_INVALID), `NotFound` (LOG_UNKNOWN), `Aborted`
        (CHECKPOINT_OUTDATED) and `FailedPrecondition` (AUDIT_FORKED).
        """
        fresh = self._open(note)
        if fresh.size == 0:
            # No proof leads from an empty tree: it could never be continued.
            raise InvalidArgument(
                "CHECKPOINT_INVALID", "there is nothing to see of an empty log", check="size"
            )
        seen = self._read(fresh.log_id)
        if seen is not None:
            self._refuse_discontinuity(fresh, note, seen, old_size, proof)
        line = checkpoints.cosign(note, self._name, self._key, self._clock())
        # Remembered before it is signed away: a crash between the two only costs a repetition.
        replace_text(self._head(fresh.log_id), checkpoints.uncosigned(note) + line)
        return line

    def _open(self, note: str) -> Checkpoint:
        try:
            self._refuse_unknown(checkpoints.parse(note).checkpoint.log_id)
            return open_checkpoint(note, self._trust, now=self._clock())
        except CheckpointError as error:
            raise InvalidArgument("CHECKPOINT_INVALID", str(error), check=error.check) from error

    def _refuse_unknown(self, log_id: str) -> None:
        if not self._trust.of_owner(AUDIT_CHECKPOINT, f"log:{log_id}"):
            raise NotFound("LOG_UNKNOWN", f"this witness does not know the log {log_id!r}")

    def _refuse_discontinuity(
        self, fresh: Checkpoint, note: str, seen: str, old_size: int, proof: list[bytes]
    ) -> None:
        last = checkpoints.parse(seen).checkpoint
        if fresh.size == last.size:
            if (fresh.root, fresh.chain) != (last.root, last.chain):
                raise self._forked(fresh, note, seen)
            return
        if old_size != last.size or fresh.size < last.size:
            raise Aborted(
                "CHECKPOINT_OUTDATED",
                f"this witness has seen {last.size} records of {fresh.log_id}: prove from there",
                size=last.size,
            )
        try:
            roots = roots_from_consistency(last.size, fresh.size, last.root, proof)
        except ValueError as error:
            raise InvalidArgument("CHECKPOINT_INVALID", str(error), check="proof") from error
        if roots != (last.root, fresh.root):
            raise self._forked(fresh, note, seen)

    def _forked(self, fresh: Checkpoint, note: str, seen: str) -> FailedPrecondition:
        evidence = f"{seen}\n{note}"
        name = hashlib.sha256(evidence.encode()).hexdigest()[:16]
        folder = self._folder / "forks"
        folder.mkdir(exist_ok=True, mode=0o700)
        # Two notes prove it; a log that goes on to offer its other past shall not fill the disk.
        if sum(1 for _ in folder.iterdir()) < _EVIDENCE_MAX:
            replace_text(folder / f"{_file_name(fresh.log_id)}-{name}.txt", evidence)
        return FailedPrecondition(
            "AUDIT_FORKED",
            f"{fresh.log_id} does not continue what this witness saw of it",
            evidence=name,
        )

    def _head(self, log_id: str) -> Path:
        return self._folder / f"{_file_name(log_id)}.note"

    def _read(self, log_id: str) -> str | None:
        try:
            return self._head(log_id).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None


def _file_name(log_id: str) -> str:
    return log_id.replace("/", "%")
