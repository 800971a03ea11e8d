"""An action as it is, and again whenever it changes, until it has ended."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aegis_server.execution.approvals import store as words
from aegis_server.execution.approvals.store import Word
from aegis_server.execution.ledger import Ledger
from aegis_server.execution.store import StoredAction


class Watching:
    """Follows actions. Changes of this server are seen at once, of others within a second."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def watch(self, action_id: str) -> AsyncIterator[tuple[StoredAction, list[Word]]]:
        """Yields the action with what was said about it; raises `NotFound`."""
        seen: tuple[object, ...] = ()
        while True:
            change = self._ledger.changes.expect()
            async with self._ledger.database.transaction() as connection:
                action = await self._ledger.require(connection, action_id)
                said = (await words.words_about(connection, [action_id]))[action_id]
            now = (action.state, action.updated_at, *((each.approver, each.at) for each in said))
            if now != seen:
                seen = now
                yield action, said
            if action.has_ended:
                return
            await self._ledger.changes.wait(change)
