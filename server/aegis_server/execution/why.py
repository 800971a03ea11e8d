"""Why an action stands where it stands."""

from __future__ import annotations

from collections.abc import Sequence

from aegis.errors import NotFound, Unavailable
from aegis.v1 import execution_pb2
from aegis_server.execution import gates
from aegis_server.execution.approvals import store as words
from aegis_server.execution.approvals.counting import read_demands
from aegis_server.execution.approvals.deciding import Approvals, given_of
from aegis_server.execution.approvals.store import Word
from aegis_server.execution.dispatch import Dispatch
from aegis_server.execution.ledger import Ledger
from aegis_server.execution.pauses.pausing import Pauses
from aegis_server.execution.states import WAITING, S
from aegis_server.execution.store import StoredAction


class Why:
    """Shows the gates of an action: those of its submission, as they are now, the executor's."""

    def __init__(
        self, ledger: Ledger, approvals: Approvals, pauses: Pauses, dispatch: Dispatch
    ) -> None:
        self._ledger = ledger
        self._approvals = approvals
        self._pauses = pauses
        self._dispatch = dispatch

    async def why(self, action_id: str) -> tuple[StoredAction, list[Word], list[gates.Gate]]:
        """Returns the action, what was said about it, and its gates; raises `NotFound`."""
        async with self._ledger.database.transaction() as connection:
            action = await self._ledger.require(connection, action_id)
            said = (await words.words_about(connection, [action_id]))[action_id]
            pause = await self._pauses.holding(connection, action.namespace, action.verb)
        here = {gate.name: gate for gate in gates.read(action.gates)}
        if action.state in WAITING:
            here["pause"] = gates.of_pause(pause)
        if action.break_glass and "approvals" in here:
            here["approvals"] = gates.of_glass(action)
        elif (demands := read_demands(action.steps)) and action.state in WAITING:
            counting = await self._approvals.counting(said, self._ledger.clock())
            spoke = {each.approver for each in said if each.kind == "approval"}
            lapsed = spoke - {each.approver for each in counting}
            here["approvals"] = gates.of_approvals(demands, given_of(counting), lapsed)
        return action, said, [*here.values(), *await self._there(action)]

    async def _there(self, action: StoredAction) -> Sequence[execution_pb2.Gate]:
        never_sent = action.state in WAITING or action.decision_envelope is None
        if never_sent or action.state == S.STATE_DENIED:
            return []
        asked: Sequence[execution_pb2.Gate] | None
        try:
            asked = await self._dispatch.gates_of(str(action.request_id), action.action_digest)
        except NotFound:
            asked = []
        except Unavailable:
            asked = None
        return gates.of_executor(action, asked)
