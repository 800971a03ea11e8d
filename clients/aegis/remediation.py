"""Governed remediation from a program's side: plan, sign, wait for people, sign again, watch.

async with connect(address, identity, retries=False) as channel:
    remediator = Remediator(channel, key=key, issuer="automation:autopilot")
    action = await remediator.run(spec)
    print(action.action_id, Action.State.Name(action.state))

A request lives for 60 seconds and people take longer, so what was approved is signed anew for the
execution: same request id, same bytes, another nonce. The same way a lost answer is asked for
again, and nothing is done twice.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Container, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeAlias

import grpc

from aegis.actions import OPEN, UNHEALED, WAITING, Action, Answer, Sleep, insist, watch
from aegis.algorithms import PrivateKey
from aegis.envelope import sign_action
from aegis.errors import AegisError
from aegis.v1 import envelope_pb2, execution_pb2, execution_pb2_grpc

Plan: TypeAlias = execution_pb2.PlanActionResponse
Asked: TypeAlias = envelope_pb2.ActionSpec | Plan | bytes
OnChange: TypeAlias = Callable[[Action], None]

SECONDS = 30.0

# Approvals that were voided by a change of the rules are collected again, but not for ever.
_SIGNINGS_MAX = 3
# More rungs than there are remedies would be a circle.
_RUNGS_MAX = 6


@dataclass(frozen=True, slots=True)
class Request:
    """What is signed every time beside the spec; the same id is the same request."""

    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    attributes: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    mode: envelope_pb2.ActionRequest.Mode.ValueType = envelope_pb2.ActionRequest.MODE_EXECUTE
    break_glass: bool = False


@dataclass(frozen=True, slots=True)
class Climb:
    """The rungs that were taken, the last of them last, and what refused the one after."""

    actions: tuple[Action, ...]
    refusal: AegisError | None = None

    @property
    def healed(self) -> bool:
        """True when the last rung helped; otherwise a person is needed."""
        return self.actions[-1].state == Action.STATE_VERIFIED


class Remediator:
    """Carries actions from the wish to the verdict, as one issuer with one key.

    Every method raises `aegis.errors.AegisError` for a refusal, with the reasons
    `ExecutionService` lists; a server that is away (UNAVAILABLE) is asked again for some seconds.
    Open the channel with `retries=False`: what gRPC repeats by itself carries a spent nonce.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        key: PrivateKey,
        issuer: str,
        audience: str = "aegis",
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._stub = execution_pb2_grpc.ExecutionServiceStub(channel)
        self._key = key
        self._issuer = issuer
        self._audience = audience
        self._sleep = sleep

    async def plan(
        self, spec: envelope_pb2.ActionSpec, *, attributes: Mapping[str, str] | None = None
    ) -> Plan:
        """Returns what `spec` would change, who has to approve and every gate; stores nothing."""
        request = execution_pb2.PlanActionRequest(spec=spec, attributes=dict(attributes or {}))

        async def ask() -> Plan:
            return await self._stub.PlanAction(request, timeout=SECONDS)

        return await self._insist(ask)

    async def submit(self, asked: Asked, request: Request | None = None) -> Action:
        """Signs and sends a spec, its exact bytes, or a plan's; returns the action as it stands.

        Give the `request` of an earlier call again to have that one answered, or carried out
        once it is APPROVED.
        """
        spec, said = _signable(asked), request or Request()

        async def send() -> Action:
            envelope = sign_action(
                spec,
                key=self._key,
                issuer=self._issuer,
                audience=self._audience,
                request_id=said.request_id,
                attributes=said.attributes,
                reason=said.reason,
                mode=said.mode,
                break_glass=said.break_glass,
            )
            message = execution_pb2.SubmitActionRequest(envelope=envelope)
            return (await self._stub.SubmitAction(message, timeout=SECONDS)).action

        return await self._insist(send)

    async def run(
        self,
        asked: Asked,
        request: Request | None = None,
        *,
        on_change: OnChange | None = None,
    ) -> Action:
        """Plans, submits, waits for people, signs again and watches; returns the ended action.

        A spec is planned first; a plan and exact bytes are signed as they are. `on_change` is
        called with the action each time its state or its approvals have changed.
        """
        said = request or Request()
        if isinstance(asked, envelope_pb2.ActionSpec):
            asked = await self.plan(asked, attributes=said.attributes)
        told = _Teller(on_change)
        action = told(await self.submit(asked, said))
        return await self._finish(action, said, told)

    async def resume(
        self,
        action: Action,
        request: Request | None = None,
        *,
        on_change: OnChange | None = None,
    ) -> Action:
        """Takes up an action that was submitted before, where `run` left it; returns it ended.

        `request` must say what was signed then, but for its id, which is the action's.
        """
        said = request or Request()
        return await self._finish(
            action,
            Request(
                action.request_id,
                said.attributes,
                said.reason,
                said.mode,
                said.break_glass or action.break_glass,
            ),
            _Teller(on_change),
        )

    async def climb(
        self,
        spec: envelope_pb2.ActionSpec,
        request: Request | None = None,
        *,
        on_change: OnChange | None = None,
    ) -> Climb:
        """Runs `spec`, and while it does not help, what the action names as the next rung.

        Every rung is planned, decided, approved and verified on its own and counts on the same
        incident. Ends when one helps, when the next would be a person, and when one is refused.
        Raises ValueError for a spec without an incident; a refusal of the first rung is raised.
        """
        if not spec.incident_id:
            raise ValueError("a ladder is climbed for an incident: set incident_id")
        said = request or Request()
        taken = [await self.run(spec, said, on_change=on_change)]
        while (rung := _next(taken[-1], spec.incident_id)) and len(taken) < _RUNGS_MAX:
            # Whoever broke the glass did so for one action.
            again = Request(attributes=said.attributes, reason=said.reason, mode=said.mode)
            try:
                taken.append(await self.run(rung, again, on_change=on_change))
            except AegisError as refusal:
                return Climb(tuple(taken), refusal)
        return Climb(tuple(taken))

    def watch(self, action_id: str) -> AsyncGenerator[Action, None]:
        """Yields the action as it is and after every change, until it has ended.

        A stream that breaks is begun again.
        """
        return watch(self._stub, action_id, sleep=self._sleep)

    async def _finish(self, action: Action, request: Request, told: _Teller) -> Action:
        for _ in range(_SIGNINGS_MAX):
            if action.state == Action.STATE_PENDING_APPROVAL:
                action = await self._until(action, told, (Action.STATE_PENDING_APPROVAL,))
            if action.state != Action.STATE_APPROVED:
                break
            action = told(await self.submit(action.spec_bytes, request))
        if action.state in OPEN - WAITING:
            action = await self._until(action, told, OPEN)
        return action

    async def _until(self, action: Action, told: _Teller, passing: Container[int]) -> Action:
        async with aclosing(self.watch(action.action_id)) as changes:
            async for seen in changes:
                action = told(seen)
                if action.state not in passing:
                    break
        return action

    async def _insist(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        return await insist(call, self._sleep)


class _Teller:
    """Calls somebody for what is new in an action, and gives the action on."""

    def __init__(self, on_change: OnChange | None) -> None:
        self._on_change = on_change
        self._last: bytes | None = None

    def __call__(self, action: Action) -> Action:
        seen = action.SerializeToString(deterministic=True)
        if self._on_change is not None and seen != self._last:
            self._on_change(action)
        self._last = seen
        return action


def _signable(asked: Asked) -> envelope_pb2.ActionSpec | bytes:
    return asked.spec if isinstance(asked, execution_pb2.PlanActionResponse) else asked


def _next(action: Action, incident_id: str) -> envelope_pb2.ActionSpec | None:
    if action.state not in UNHEALED or not action.HasField("next"):
        return None
    rung = envelope_pb2.ActionSpec()
    rung.CopyFrom(action.next)
    rung.incident_id = incident_id
    return rung
