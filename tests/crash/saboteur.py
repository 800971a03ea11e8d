"""An executor with one thing wrong with it: `AEGIS_SABOTAGE` says which.

again      what a crash left open is done once more, instead of looking what became of it
unwritten  nothing is written down before it is sent
forgetful  what a crash left open stays open
"""

from __future__ import annotations

import os
from typing import Any

from aegis_executor.__main__ import main
from aegis_executor.executions import Executions
from aegis_executor.journal import Ending, Journal


async def _again(self: Any, request_id: str, action_id: str, remedy: Any) -> Ending | None:
    changing = self._changing
    # With the old id it would be recognised as done: that is what the id is for.
    draft = await changing._planner.draft(remedy, action_id=f"{action_id}-again")
    await self._journal.sending(request_id, 2, draft.change)
    audit_id = await changing._cluster.apply(draft.change)
    return Ending("APPLIED", observations={"changed": "yes", "audit_id": audit_id})


async def _unwritten(*_: Any) -> None:
    """Writes nothing down."""


async def _forgetful(_: Any) -> bool:
    return False


_PLACES = {
    "again": (Executions, "_look", _again),
    "unwritten": (Journal, "sending", _unwritten),
    "forgetful": (Executions, "_sweep_once", _forgetful),
}

if __name__ == "__main__":
    place, name, instead = _PLACES[os.environ["AEGIS_SABOTAGE"]]
    setattr(place, name, instead)
    main()
