"""Whose checkpoints count: keys of logs and witnesses, from a trust bundle."""

from __future__ import annotations

from datetime import datetime

from aegis.audit import checkpoints
from aegis.audit.checkpoints import Checkpoint, CheckpointError
from aegis.trust import AUDIT_CHECKPOINT, AUDIT_WITNESS, TrustBundle


def open_checkpoint(note: str, trust: TrustBundle, *, now: datetime | None = None) -> Checkpoint:
    """Returns the checkpoint of a note that a key of its log has signed.

    The key has to have been usable when the checkpoint was cut. Who is given one by its log says
    what time it is `now`: the key has to be usable still, because the time in the note is that of
    who signed it, and a stolen key signs any. Raises `CheckpointError`; its check is "key" when no
    such key is known.
    """
    claimed = checkpoints.parse(note).checkpoint
    keys = trust.of_owner(AUDIT_CHECKPOINT, f"log:{claimed.log_id}")
    failure = CheckpointError("key", f"no key of the log {claimed.log_id} is trusted")
    for key in keys:
        try:
            checkpoint = checkpoints.verify(note, claimed.log_id, key.note_key)
        except CheckpointError as error:
            failure = error
            continue
        for when in (checkpoint.time, now):
            if when is not None and not key.usable(when):
                text = f"key {key.key_id} was not valid when this was signed"
                raise CheckpointError("key", text)
        return checkpoint
    raise failure


def cosigned_by(note: str, trust: TrustBundle) -> dict[str, datetime]:
    """Returns the trusted witnesses that cosigned a note, and when; wrong ones raise.

    Their keys have to have been usable then. Raises `CheckpointError` ("signature") for a
    cosignature in the name of a trusted witness that does not hold.
    """
    signers = {name for name, _ in checkpoints.parse(note).signatures}
    found: dict[str, datetime] = {}
    for key in trust.keys:
        if key.usage == AUDIT_WITNESS and key.owner in signers:
            try:
                when = checkpoints.verify_cosignature(note, key.owner, key.note_key)
                if key.usable(when):
                    found[key.owner] = when
            except CheckpointError as error:
                if error.check != "key":
                    raise
    return found
