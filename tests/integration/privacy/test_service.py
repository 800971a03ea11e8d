"""PrivacyService over mTLS: who may do what, what is said, and what is refused by field."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import grpc
import pytest
from click.testing import Result
from tests.commands import invoke
from tests.integration.privacy.conftest import DATASET, PLAN

from aegis.errors import AegisError, from_rpc_error
from aegis.v1 import privacy_pb2
from aegis_learning import privacy
from aegis_policy import Engine
from aegis_policy.baseline import baseline_csv
from aegis_server.access import ACCESS, DOMAIN, Needs

SECONDS = 30


def _limit(**changes: Any) -> privacy_pb2.SetPrivacyLimitRequest:
    fields = {"dataset": DATASET, "epsilon_limit": 5.0, "delta": 1e-3, "reason": "agreed"}
    return privacy_pb2.SetPrivacyLimitRequest(**{**fields, **changes})


def _reset(**changes: Any) -> privacy_pb2.ResetPrivacyLedgerRequest:
    fields = {"dataset": DATASET, "participant": "*", "reason": "new rows"}
    return privacy_pb2.ResetPrivacyLedgerRequest(**{**fields, **changes})


async def _refusal(call: Any) -> AegisError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return from_rpc_error(refused.value)


async def test_ledger_shows_accounts_and_their_entries(room: Any) -> None:
    """A line for each participant and one for everybody; the newest entry first."""
    first = await room.reserve("north", "south", model="logistic")
    await room.settle(first, north=20)
    second = await room.reserve("*", mechanism=replace(PLAN, steps=2))
    stub = await room.stub("admin")
    request = privacy_pb2.GetPrivacyLedgerRequest(dataset=DATASET)
    found = await stub.GetPrivacyLedger(request, timeout=SECONDS)
    assert [(a.participant, a.entries, a.account) for a in found.accounts] == [
        *(("*", 1, 1), ("north", 2, 1), ("south", 2, 1))
    ]
    everybody, north, _ = found.accounts
    assert everybody.epsilon_spent == everybody.epsilon_reserved > 0
    assert 0 < north.epsilon_reserved < north.epsilon_spent
    assert (north.epsilon_limit, north.delta) == (20.0, 1e-3)
    assert [(e.run_id, e.participant, e.mechanism.steps) for e in found.entries] == [
        *((second, "*", 2), (first, "north", 20), (first, "south", 60))
    ]
    newest, oldest, _ = found.entries
    assert (newest.settled, oldest.settled, oldest.steps_reserved) == (False, True, 60)
    assert (oldest.model, oldest.unit) == ("logistic", "record")
    assert oldest.epsilon == pytest.approx(privacy.epsilon(PLAN.noise_multiplier, 0.3, 20, 1e-3))
    assert oldest.HasField("settle_time")
    assert not newest.HasField("settle_time")
    request.participant = "north"
    found = await stub.GetPrivacyLedger(request, timeout=SECONDS)
    assert [a.participant for a in found.accounts] == ["north"]
    assert {e.participant for e in found.entries} == {"*", "north"}


async def test_limit_and_reset_are_done_in_the_name_of_the_caller(room: Any) -> None:
    """With the rule that let them, and without a participant for all."""
    stub = await room.stub("admin")
    done = await stub.SetPrivacyLimit(_limit(expected_limit=20.0), timeout=SECONDS)
    assert (done.account.participant, done.account.epsilon_limit) == ("*", 5.0)
    done = await stub.ResetPrivacyLedger(_reset(), timeout=SECONDS)
    assert done.account.account == 2
    limit, reset = await room.records()
    assert limit.actor == reset.actor == "user:admin"
    assert limit.rule_id == reset.rule_id == "admin-may-everything"
    assert (limit.reason, reset.reason) == ("agreed", "new rows")


async def test_stale_limit_and_open_run_are_conflicts(room: Any) -> None:
    """FAILED_PRECONDITION both: look again, or wait."""
    stub = await room.stub("admin")
    refusal = await _refusal(stub.SetPrivacyLimit(_limit(expected_limit=7.0), timeout=SECONDS))
    assert (refusal.reason, refusal.code.name) == ("STATE_CONFLICT", "FAILED_PRECONDITION")
    await room.reserve("north")
    refusal = await _refusal(stub.ResetPrivacyLedger(_reset(), timeout=SECONDS))
    assert (refusal.reason, refusal.code.name) == ("STATE_CONFLICT", "FAILED_PRECONDITION")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (_limit(epsilon_limit=0.0), "epsilon_limit"),
        (_limit(epsilon_limit=-1.0), "epsilon_limit"),
        (_limit(epsilon_limit=float("nan")), "epsilon_limit"),
        (_limit(epsilon_limit=float("inf")), "epsilon_limit"),
        (_limit(epsilon_limit=1001.0), "epsilon_limit"),
        (_limit(delta=0.0), "delta"),
        (_limit(delta=1.0), "delta"),
        (_limit(reason=""), "reason"),
        (_limit(dataset="No Such Name"), "dataset"),
        (_limit(expected_limit=-1.0), "expected_limit"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_limit_that_is_none_is_refused_by_its_field(
    room: Any, request_: privacy_pb2.SetPrivacyLimitRequest, field: str
) -> None:
    """At the door."""
    stub = await room.stub("admin")
    refusal = await _refusal(stub.SetPrivacyLimit(request_, timeout=SECONDS))
    assert (refusal.reason, refusal.violations[0].field) == ("FIELD_INVALID", field)


@pytest.mark.parametrize(
    ("changes", "field"), [({"participant": ""}, "participant"), ({"reason": ""}, "reason")]
)
async def test_reset_without_whom_or_why_is_refused_by_its_field(
    room: Any, changes: dict[str, str], field: str
) -> None:
    """It is not done by leaving something out."""
    stub = await room.stub("admin")
    refusal = await _refusal(stub.ResetPrivacyLedger(_reset(**changes), timeout=SECONDS))
    assert (refusal.reason, refusal.violations[0].field) == ("FIELD_INVALID", field)


async def test_unknown_names_are_not_found(room: Any) -> None:
    """Neither data set nor participant."""
    stub = await room.stub("admin")
    for request in (
        privacy_pb2.GetPrivacyLedgerRequest(dataset="no-such-rows"),
        privacy_pb2.GetPrivacyLedgerRequest(dataset=DATASET, participant="nobody"),
    ):
        refusal = await _refusal(stub.GetPrivacyLedger(request, timeout=SECONDS))
        assert refusal.reason == "RESOURCE_NOT_FOUND"


async def test_programs_may_neither_look_nor_change(room: Any) -> None:
    """Neither who heals clusters nor who drives runs."""
    for name in ("autopilot", "coordinator"):
        stub = await room.stub(name)
        look = privacy_pb2.GetPrivacyLedgerRequest(dataset=DATASET)
        for call in (
            stub.GetPrivacyLedger(look, timeout=SECONDS),
            stub.SetPrivacyLimit(_limit(), timeout=SECONDS),
            stub.ResetPrivacyLedger(_reset(), timeout=SECONDS),
        ):
            assert (await _refusal(call)).reason == "POLICY_DENIED"


@pytest.mark.parametrize("role", ["viewer", "auditor", "operator", "participant", "automation"])
def test_only_administrators_change_what_runs_may_cost(role: str) -> None:
    """Those who run training least of all; viewers look."""
    engine = Engine.from_csv(baseline_csv() + f"\ng2, user:somebody, role:{role}\n")
    may = {
        method.rpartition("/")[2]: engine.decide(
            subject="user:somebody",
            domain=DOMAIN,
            resource=needs.resource,
            action=needs.action,
        ).allowed
        for method, needs in ACCESS.items()
        if "PrivacyService" in method and isinstance(needs, Needs)
    }
    assert not may["SetPrivacyLimit"]
    assert not may["ResetPrivacyLedger"]
    assert may["GetPrivacyLedger"] == may["CertifyPrivacy"]
    assert may["GetPrivacyLedger"] == (role in ("viewer", "auditor", "operator"))


# The command line, against this server.


async def _aegis(room: Any, *words: object) -> Result:
    where = ["--as", "admin", "--home", str(room.home), "--address", room.address]
    arguments = [*where, "privacy", *map(str, words)]
    # It has a loop of its own, and ours has to answer it meanwhile.
    return await asyncio.to_thread(invoke, arguments)


async def test_command_shows_a_bar_and_the_runs(room: Any) -> None:
    """What is spent of what, and by which run; JSON has the same."""
    run_id = await room.reserve("north")
    await room.reserve("*", simulation=True)
    shown = await _aegis(room, "show", DATASET)
    assert shown.exit_code == 0, shown.output
    for words in ("north", "11.998", "████████████········", run_id, "60 reserved", "simulated"):
        assert words in shown.stdout
    told = json.loads((await _aegis(room, "show", DATASET, "-o", "json")).stdout)
    assert [account["participant"] for account in told["accounts"]] == ["*", "north"]
    assert len(told["entries"]) == 2


async def test_commands_set_limits_and_begin_accounts(room: Any) -> None:
    """What was seen is compared; a reset asks first."""
    await room.settle(await room.reserve("north"), north=20)
    done = await _aegis(room, "limit", DATASET, 7.5, "--participant", "north", "--reason", "why")
    assert done.exit_code == 0, done.output
    assert "of 7.5 at 0.001" in done.stdout
    stays = await _aegis(room, "reset", DATASET, "--participant", "north", "--reason", "new rows")
    assert stays.exit_code != 0
    assert await room.spent("north") > 0
    done = await _aegis(
        room, "reset", DATASET, "--participant", "north", "--reason", "new rows", "--yes"
    )
    assert "account 2 has begun" in done.stdout
    assert await room.spent("north") == 0
    now = json.loads((await _aegis(room, "show", DATASET, "--history", "-o", "json")).stdout)
    assert [(e["account"], e["mechanism"]["steps"]) for e in now["entries"]] == [(1, 20)]
    again = json.loads(
        (await _aegis(room, "limit", DATASET, 9, "--reason", "why", "-o", "json")).stdout
    )
    assert (again["participant"], again["epsilon_limit"]) == ("*", 9.0)


async def test_refused_command_says_what_to_do(room: Any) -> None:
    """Exit code 1, the reason, and a next step."""
    await room.reserve("north")
    refused = await _aegis(room, "reset", DATASET, "--reason", "new rows", "--yes")
    assert refused.exit_code == 1
    assert "STATE_CONFLICT" in refused.stderr
    assert "next:" in refused.stderr


@pytest.mark.slow
async def test_command_certifies_below_the_ledgers_figure(room: Any) -> None:
    """Of runs of two kinds, and of what everybody bears."""
    await room.reserve("north")
    await room.reserve("*", mechanism=replace(PLAN, noise_multiplier=2.0, steps=10))
    told = json.loads(
        (await _aegis(room, "certify", DATASET, "--participant", "north", "-o", "json")).stdout
    )
    spent = told["account"]["epsilon_spent"]
    assert spent == pytest.approx(await room.spent("north"))
    assert 0.8 * spent < told["epsilon_prv"] < spent
