"""Every number of the report, counted once by hand."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from tests.reporting import (
    EXECUTOR,
    MAY,
    NOON,
    SERVER,
    budget,
    busy_facts,
    plan,
    record,
    run_of,
)

from aegis.audit.report.facts import (
    ActionCount,
    ActionFacts,
    Count,
    DatasetBudget,
    DayCount,
    DecisionFacts,
    Erasure,
    EventCount,
    KeyChange,
    LogFacts,
    ParticipantFacts,
    PeerFacts,
    PolicyChange,
    ReviewFacts,
    RoleChange,
    RuleCount,
    RunFacts,
    VerdictCount,
)
from aegis.audit.report.gathering import gather
from aegis.v1 import audit_pb2


def test_records_are_counted_by_log_and_kind():
    """Records of the period by kind; the reach of the log and its checkpoints beside them."""
    server, executor = busy_facts().logs
    assert server == LogFacts(
        log_id=SERVER,
        records=52,
        kinds=(
            Count("review", 12),
            Count("run", 11),
            Count("identity", 9),
            Count("action", 6),
            Count("access", 4),
            Count("decision", 4),
            Count("checkpoint_peer", 2),
            Count("policy_change", 2),
            Count("erasure", 1),
            Count("key_change", 1),
        ),
        first_record=MAY.start - timedelta(seconds=1),
        last_record=MAY.end,
        checkpoints=3,
        longest_gap=timedelta(days=9, hours=12),
        longest_gap_until=NOON,
    )
    assert executor == LogFacts(EXECUTOR, 3, (Count("execution", 3),), NOON, NOON, 1, None, None)
    assert busy_facts().records == 55
    assert busy_facts().peers == PeerFacts(recorded=1, rolled_back=1)


def test_decisions_are_counted_by_rule_subject_source_and_day():
    """Questions, doors, actions and runs; the denied one is who was asked about."""
    noon = NOON.date()
    assert busy_facts().decisions == DecisionFacts(
        allowed=8,
        denied=5,
        sources=(
            Count("asked by programs", 4),
            Count("at the doors", 4),
            Count("about actions", 3),
            Count("about runs", 2),
        ),
        rules=(
            RuleCount("", 0, 4),
            RuleCount("reads", 4, 0),
            RuleCount("restarts", 2, 1),
            RuleCount("starts", 2, 0),
        ),
        denied_subjects=(Count("automation:bot", 5),),
        days=(
            DayCount(date(2026, 5, 1), 4, 0),
            DayCount(noon, 4, 2),
            *(DayCount(noon + timedelta(days=number), 0, 1) for number in (1, 2, 3)),
        ),
    )


def summary(allow: str, deny: str, names: bytes, **details: str) -> audit_pb2.AuditRecord:
    return record(
        "DECISION",
        "evaluate",
        "logged",
        actor="server:aegis",
        details={"allow": allow, "deny": deny, **details},
        evidence={"counts.json": names},
    )


def test_summaries_of_the_decision_log_count_beside_single_records():
    """Totals are those of the details; what they count and do not name is there as others."""
    single = record("DECISION", "read", "deny", details={"subject": "user:bob"})
    names = b'{"allow": {"reads": 7}, "deny": {"": 2}, "denied": {"user:bob": 1}}'
    logged = summary("9", "2", names, unrecorded="3")
    dropped = record("DECISION", "drop", "dropped", details={"decisions": "500"})
    decisions = gather([(SERVER, each) for each in (single, logged, dropped)], MAY).decisions
    assert decisions == DecisionFacts(
        allowed=9,
        denied=3,
        sources=(Count("asked by programs", 12),),
        rules=(RuleCount("reads", 7, 0), RuleCount("", 0, 3), RuleCount("(others)", 2, 0)),
        denied_subjects=(Count("user:bob", 2), Count("(others)", 1)),
        days=(DayCount(NOON.date(), 9, 3),),
        unrecorded=3,
    )


@pytest.mark.parametrize(
    "names", [b"", b"{", b"[]", b'{"allow": 3}', b'{"allow": {"x": 99}}', b'{"allow": {"x": -1}}']
)
def test_odd_names_in_a_summary_are_left_out(names: bytes):
    """Its totals still count."""
    decisions = gather([(SERVER, summary("4", "x", names))], MAY).decisions
    assert (decisions.allowed, decisions.denied) == (4, 0)
    assert decisions.rules == (RuleCount("(others)", 4, 0),)


def test_runs_tell_their_configuration_and_cost():
    """From the plan that was recorded with the start, and the last record before the end."""
    private, trial = busy_facts().runs
    assert private == RunFacts(
        run_id="run-may",
        actor="user:ada",
        dataset="breast-cancer",
        model="mlp",
        state="completed",
        review=True,
        simulation=False,
        participants=3,
        rounds_planned=2,
        rounds_completed=2,
        target_epsilon=5.0,
        delta=1e-3,
        noise_multiplier=0.9911,
        clip_norm=1.5,
        sample_rate=0.3,
        local_steps=4,
        epsilon=4.5,
    )
    assert (trial.run_id, trial.simulation, trial.review) == ("run-trial", True, False)


def test_budget_is_what_the_server_wrote_last_before_and_in_the_period():
    """April's run set what was spent before; simulations are not charged; refusals are counted."""
    assert busy_facts().datasets == (
        DatasetBudget(
            dataset="breast-cancer",
            limit=20.0,
            delta=0.001,
            spent_before=3.0,
            spent=7.5,
            runs_charged=1,
            runs_simulated=1,
            runs_refused=1,
        ),
    )


def test_budget_that_no_record_tells_stays_unknown():
    """A denied start names a data set and no budget: nothing is made up."""
    denied = record("RUN", "start", "deny", details={"dataset": "secret"})
    facts = gather([(SERVER, denied)], MAY)
    assert facts.datasets == (DatasetBudget("secret", None, None, None, None, 0, 0, 0),)
    assert (facts.runs, facts.decisions.denied) == ((), 1)


def test_participants_have_their_rounds_and_costliest_charged_run():
    """Two runs each; the one who was rejected was left out of a round of both."""
    one, two, three = busy_facts().participants
    assert one == ParticipantFacts("site-1", "breast-cancer", 2, 4, 0, 4.5)
    assert (two.rounds_aggregated, two.rounds_left_out) == (4, 0)
    assert three == ParticipantFacts("site-3", "breast-cancer", 2, 2, 2, 4.5)


def test_participants_of_simulations_have_no_cost():
    """What is simulated is no secret."""
    facts = gather([(SERVER, each) for each in run_of("run-1", simulation=True)], MAY)
    assert {part.epsilon_largest for part in facts.participants} == {0.0}


def test_reviews_are_counted_by_verdict_and_participant():
    """A verdict that no judge gave is an override."""
    assert busy_facts().reviews == ReviewFacts(
        received=5,
        accepted=4,
        rejected=1,
        held=1,
        overridden=1,
        refusals=(Count("UPDATE_NOT_FINITE", 1),),
        participants=(
            VerdictCount("site-1", 2, 0, 0),
            VerdictCount("site-2", 1, 0, 0),
            VerdictCount("site-3", 1, 1, 1),
        ),
        runs_without_review=1,
    )


def test_actions_are_counted_for_server_and_executor():
    """Reasons are names of errors; a sentence somebody wrote is left out."""
    assert busy_facts().actions == ActionFacts(
        allowed=2,
        denied=1,
        issuers=(Count("automation", 3),),
        outcomes=(
            ActionCount("restart_pod", "applied", "", 1),
            ActionCount("restart_pod", "failed", "", 1),
        ),
        refusals=(Count("REPLAY_DETECTED", 1),),
        executor=(
            ActionCount("restart_pod", "applied", "", 1),
            ActionCount("restart_pod", "intent", "", 1),
            ActionCount("restart_pod", "refused", "SIGNATURE_INVALID", 1),
        ),
    )


def test_identity_tells_logins_accounts_keys_and_roles():
    """Accounts and API keys are told apart by their path."""
    found = busy_facts().identity
    assert (found.logins, found.failed_logins) == (1, 2)
    assert (found.accounts_opened, found.accounts_closed) == (1, 1)
    assert (found.keys_made, found.keys_ended) == (2, 1)
    assert found.role_changes == (
        RoleChange(NOON, "user:ada", "user:u-1", "", "viewer"),
        RoleChange(NOON, "user:ada", "user:u-1", "viewer", "auditor"),
    )
    assert EventCount("user", "login", "refused", "LOGIN_FAILED", 2) in found.events
    assert sum(event.count for event in found.events) == 9


def test_service_account_called_keys_is_an_account():
    """The last part of a path does not make it a key."""
    path = "/identity/service-accounts/keys"
    facts = gather([(SERVER, record("IDENTITY", "create", "created", resource=path))], MAY)
    assert (facts.identity.accounts_opened, facts.identity.keys_made) == (1, 0)


def test_changes_of_rules_and_keys_and_erasures_are_listed():
    """With time and author, without the reason, which may be free text."""
    facts = busy_facts()
    assert facts.policy_changes == (
        PolicyChange(NOON, "user:ada", "imported", 2, 52, "ab" * 32),
        PolicyChange(NOON, "user:ada", "refused", 0, 0, ""),
    )
    assert facts.key_changes == (
        KeyChange(NOON, "user:ada", "revoke", "0123456789abcdef", "revoked"),
    )
    assert facts.erasures == (Erasure(NOON, "user:ada", "7", "request"),)


def test_bundle_a_program_starts_with_again_is_no_change():
    """Each program says at its start which one it uses; only another one is listed."""
    told = [("server:a", "1"), ("server:a", "1"), ("executor:b", "1"), ("server:a", "2")]
    records = [
        (SERVER, record("KEY_CHANGE", "trust", "in_use", actor=who, details={"sha256": digest}))
        for who, digest in told
    ]
    found = gather(records, MAY).key_changes
    assert [change.actor for change in found] == ["server:a", "executor:b", "server:a"]


def test_period_is_half_open():
    """The first instant counts, the last does not, so two months share no record."""
    assert MAY.start in MAY
    assert MAY.end not in MAY
    edge = [(SERVER, record("ACCESS", "read", "allow", at=at)) for at in (MAY.start, MAY.end)]
    assert gather(edge, MAY).records == 1


def test_run_that_ends_later_is_as_it_was_at_the_end_of_the_period():
    """What happens after the period does not change its report."""
    records = list(run_of("run-1", at=NOON))
    records[-1].time.FromDatetime(MAY.end)
    (found,) = gather([(SERVER, each) for each in records], MAY).runs
    assert (found.state, found.epsilon, found.rounds_completed) == ("running", 4.5, 2)


def test_refused_round_changes_nothing_of_its_run():
    """Neither what it has completed nor its state."""
    records = [
        record("RUN", "start", "starting", subject_id="r", details=budget(1.0)),
        record("RUN", "complete_round", "completed", subject_id="r", details={"round": "1"}),
        record("RUN", "complete_round", "refused", subject_id="r", details={"round": "2"}),
    ]
    (found,) = gather([(SERVER, each) for each in records], MAY).runs
    assert (found.state, found.rounds_completed) == ("starting", 1)


def test_empty_log_has_no_facts():
    """Nothing is counted, nothing fails."""
    facts = gather([], MAY)
    assert facts.records == 0
    assert facts.logs == ()
    assert facts.decisions.days == ()


def test_damaged_details_are_left_out():
    """A plan that is none, participants that are none, numbers that are none."""
    start = {**budget(1.0), "noise_multiplier": "-1", "budget_spent_epsilon": "nan"}
    records = [
        record(
            "RUN", "start", "starting", subject_id="r", details=start, evidence={"plan": b"\xff"}
        ),
        record("RUN", "complete_round", "completed", subject_id="r", details={"round": "1e999"}),
        record(
            "RUN",
            "complete_round",
            "completed",
            subject_id="r",
            evidence={"participants.json": b"[1"},
        ),
    ]
    facts = gather([(SERVER, each) for each in records], MAY)
    (found,) = facts.runs
    assert (found.dataset, found.noise_multiplier, found.rounds_completed) == (
        "breast-cancer",
        0.0,
        0,
    )
    assert facts.datasets[0].spent is None
    assert facts.participants == ()


def test_plan_is_read_as_it_was_signed_off():
    """The plan's bytes are the evidence; details beside them are not believed over them."""
    start = record(
        "RUN",
        "start",
        "starting",
        subject_id="r",
        details={"dataset": "another"},
        evidence={"plan": plan()},
    )
    assert gather([(SERVER, start)], MAY).runs[0].dataset == "breast-cancer"


def test_participants_and_data_sets_are_events_of_identity_and_no_keys():
    """A revoked hospital is neither an account that was closed nor an API key that ended."""
    told = [
        ("invite", "invited", "/training/participants/north"),
        ("enrol", "enrolled", "/training/participants/north"),
        ("revoke", "revoked", "/training/participants/north"),
        ("register", "registered", "/training/datasets/patients"),
    ]
    records = [(SERVER, record("IDENTITY", *each[:2], resource=each[2])) for each in told]
    facts = gather(records, MAY).identity
    assert [(each.about, each.action) for each in facts.events] == [
        ("data set", "register"),
        ("participant", "enrol"),
        ("participant", "invite"),
        ("participant", "revoke"),
    ]
    assert (facts.accounts_closed, facts.keys_ended) == (0, 0)
