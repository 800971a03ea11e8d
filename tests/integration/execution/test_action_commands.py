"""`aegis action` against a control plane that plays, over a real channel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console
from tests.commands import invoke
from tests.factories import restart, scale
from tests.fake_execution import BORN, ONCALL, FakeExecution, serving

from aegis import dsse
from aegis.algorithms import public_half
from aegis.cli.action import calls, submitting, telling
from aegis.cli.session import Output
from aegis.errors import FailedPrecondition, PermissionDenied
from aegis.local.keys import pem
from aegis.v1 import envelope_pb2, execution_pb2

Action = execution_pb2.Action
Gate = execution_pb2.Gate
Spec = envelope_pb2.ActionSpec

SUBMIT = ("submit", "restart-pod", "web-1", "-n", "shop")
SCALE = ("scale", "web", "-n", "shop", "--replicas", 5)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeExecution]:
    """The control plane, the commands' channel to it, and the caller's key in their home."""
    playing = FakeExecution()
    (tmp_path / "pki").mkdir()
    (tmp_path / "pki" / "admin-signing.key").write_bytes(pem(playing.key))
    monkeypatch.setenv("AEGIS_HOME", str(tmp_path))
    with serving(playing) as address:

        @asynccontextmanager
        async def channel(*, retries: bool = True):
            options = [("grpc.enable_retries", int(retries))]
            async with grpc.aio.insecure_channel(address, options) as opened:
                yield opened

        monkeypatch.setattr(calls, "channel", channel)
        yield playing


def aegis(*words: object, says: str = "") -> Result:
    return invoke(["action", *map(str, words)], stdin=says)


def stored(fake: FakeExecution, state: int, name: str = "a-1", **fields: object) -> Action:
    action = Action(action_id=name, issuer="user:bob", spec=scale("shop", "web", 5), state=state)
    for field, value in fields.items():
        setattr(action, field, value)
    action.create_time.seconds = action.update_time.seconds = BORN
    return fake.add(action)


def pending(fake: FakeExecution, *steps: envelope_pb2.ApprovalStep) -> Action:
    action = stored(fake, Action.STATE_PENDING_APPROVAL)
    action.steps.extend(steps or [ONCALL])
    return action


def gate(name: str, verdict: int, message: str, reason: str = "") -> Gate:
    return Gate(name=name, verdict=verdict, message=message, reason=reason)


# plan


def test_plan_shows_difference_people_and_gates(fake: FakeExecution):
    """What goes, what comes, who has to approve, and each gate with its numbers."""
    fake.steps = [ONCALL]
    fake.plan = execution_pb2.PlanActionResponse(
        allowed=True,
        rule_id="sre-scales",
        policy_revision=12,
        differences=[execution_pb2.Difference(path="spec.replicas", before="3", after="5")],
        gates=[
            gate("policy", Gate.VERDICT_PASSED, "rule sre-scales allows it, revision 12"),
            gate("object.replicas", Gate.VERDICT_HELD, "the only one", "SINGLE_REPLICA"),
            gate("budget.target", Gate.VERDICT_PASSED, "1 of 3 in the last hour"),
            gate("approvals", Gate.VERDICT_HELD, "0 of 1", "APPROVALS_INSUFFICIENT"),
            gate("breaker.global", Gate.VERDICT_NOT_ASKED, ""),
        ],
        warnings=["spec.paused is deprecated"],
    )
    done = aegis("plan", *SCALE)
    assert done.exit_code == 6, done.output
    for line in (
        "plan scale_deployment shop/web to 5 in sandbox",
        "- spec.replicas: 3",
        "+ spec.replicas: 5",
        "! spec.paused is deprecated",
        "step 1: 1 of role:oncall",
        "✓ policy           rule sre-scales allows it, revision 12",
        "✗ object.replicas  held SINGLE_REPLICA: the only one",
        "✓ budget.target    1 of 3 in the last hour",
        "✗ approvals        held APPROVALS_INSUFFICIENT: 0 of 1",
        "· breaker.global   not asked",
        "people have to approve it first",
    ):
        assert line in done.stdout
    assert done.stdout.count("policy") == 1


def test_plan_that_needs_people_nobody_asks_exits_4(fake: FakeExecution):
    """Waiting would not help: a rule has to ask somebody first."""
    fake.plan = execution_pb2.PlanActionResponse(
        allowed=True,
        gates=[gate("object.replicas", Gate.VERDICT_HELD, "the only one", "SINGLE_REPLICA")],
    )
    done = aegis("plan", *SCALE)
    assert (done.exit_code, "no rule asks any" in done.stdout) == (4, True)


def test_plan_that_is_ready_exits_0(fake: FakeExecution):
    """And says so."""
    done = aegis("plan", *SCALE)
    assert done.exit_code == 0
    assert "ready: submitting it now" in done.stdout


def test_plan_that_is_denied_or_refused_exits_4(fake: FakeExecution):
    """With the rule, or the gates, that shut it."""
    fake.plan = execution_pb2.PlanActionResponse(rule_id="nobody-here")
    denied = aegis("plan", *SCALE)
    assert (denied.exit_code, "policy denies it" in denied.stdout) == (4, True)
    fake.plan = execution_pb2.PlanActionResponse(
        allowed=True, gates=[gate("gitops", Gate.VERDICT_REFUSED, "argo owns it", "GITOPS_OWNED")]
    )
    refused = aegis("plan", *SCALE)
    assert refused.exit_code == 4
    assert "✗ gitops  refused GITOPS_OWNED: argo owns it" in refused.stdout
    assert "not ready: gitops" in refused.stdout


def test_plan_of_what_is_gone_says_what_to_do(fake: FakeExecution):
    """A refusal with a next step, exit code 1."""
    fake.tell("PlanAction", FailedPrecondition("PLAN_DRIFT", "it changed"))
    done = aegis("plan", *SCALE)
    assert done.exit_code == 1
    assert "aegis action plan" in done.stderr


def test_plan_as_json_is_the_answer(fake: FakeExecution):
    """With the names of the .proto."""
    document = json.loads(aegis("plan", *SCALE, "-o", "json").stdout)
    assert document["ready"] is True
    assert set(document) >= {"spec", "action_digest", "differences", "steps", "gates", "warnings"}


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (("restart-pod", "web-1", "-n", "shop", "--grace-seconds", 0), "restart_pod"),
        (("restart-rollout", "web", "-n", "shop"), "restart_rollout"),
        (("scale", "web", "-n", "shop", "--replicas", 0), "scale_deployment"),
        (("rollback", "web", "-n", "shop", "--to", "abc"), "rollback_deployment"),
        (("cordon", "node-1"), "cordon_node"),
        (("uncordon", "node-1"), "uncordon_node"),
    ],
)
def test_every_verb_becomes_its_action(fake: FakeExecution, words: tuple[object, ...], field: str):
    """On its target, in its namespace where it has one."""
    assert aegis("plan", *words, "--incident", "INC-7", "--uid", "u").exit_code == 0
    spec = fake.last("PlanAction").spec
    assert spec.WhichOneof("action") == field
    assert spec.target.namespace == ("" if "cordon" in words[0] else "shop")
    assert (spec.incident_id, spec.target.uid, spec.target.cluster) == ("INC-7", "u", "sandbox")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("plan", "cordon", "node-1", "-n", "shop"), "nodes have no namespace"),
        (("plan", "restart-pod", "web-1"), "what namespace"),
        (("plan", "scale", "web", "-n", "shop"), "scale needs --replicas"),
        (("plan", "rollback", "web", "-n", "shop", "--replicas", 2), "nothing else takes them"),
        (("plan", *SCALE, "--attr", "severity"), "no name or no value"),
        ((*SUBMIT, "--metric", "up:better"), "is no probe"),
        ((*SUBMIT, "--alert", "alertname"), "no name or no value"),
        ((*SUBMIT, "--window", "soon"), "no length of time"),
        ((*SUBMIT, "--ladder"), "for an incident"),
        ((*SUBMIT, "--break-glass"), "needs a reason"),
        ((*SUBMIT, "--key", "/nowhere.key"), "no signing key"),
        (("list", "--state", "tired"), "is no state"),
        (("approve", "a-1", "--key", "k"), "--detached"),
        (("approve", "a-1", "-o", "json"), "nobody to ask"),
    ],
)
def test_wrong_command_line_exits_2_and_says_why(
    fake: FakeExecution, words: tuple[object, ...], said: str
):
    """Before anything is sent."""
    done = aegis(*words)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())
    assert "next:" in done.stderr
    assert "SubmitAction" not in fake.names()


# submit and continue


def test_submit_shows_the_plan_and_follows_to_the_verdict(fake: FakeExecution):
    """Over the approval of somebody else."""
    fake.steps = [ONCALL]
    fake.plan = execution_pb2.PlanActionResponse(
        allowed=True,
        differences=[execution_pb2.Difference(path="spec.replicas", before="3", after="5")],
    )
    done = aegis("submit", *SCALE, "--reason", "more load")
    assert done.exit_code == 0, done.output
    for words in (
        "+ spec.replicas: 5",
        "action-1; interrupt and `aegis action continue action-1` later",
        "pending approval  needs 1 of role:oncall (0 given)",
        "approved",
        "applied  the cluster was changed; watching whether it helps",
        "verified",
        "✓ step 1: 1 of role:oncall, 1 given: user:mia",
    ):
        assert words in done.stdout
    assert [each.reason for each in fake.requests] == ["more load", "more load"]


def test_progress_in_a_terminal_says_what_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A moving line below the changes, which is gone at the end."""
    console = Console(force_terminal=True, width=80)
    monkeypatch.setattr(submitting, "out", console)
    monkeypatch.setattr(telling, "out", console)
    action = Action(action_id="a-1", state=Action.STATE_PENDING_APPROVAL, steps=[ONCALL])
    with submitting.Progress(Output.table) as on_change:
        on_change(action)
        on_change(action)
    shown = capsys.readouterr().out
    assert shown.count("continue a-1") == 1
    assert "pending approval …" in shown
    assert shown.endswith("\x1b[1A\x1b[2K")


def test_submit_without_waiting_exits_6_when_people_are_needed(fake: FakeExecution):
    """And names the command for somebody else."""
    fake.steps = [ONCALL]
    done = aegis(*SUBMIT, "--no-wait")
    assert done.exit_code == 6
    assert "aegis action approve action-1" in done.stdout
    assert "WatchAction" not in fake.names()


def test_submit_without_plan_asks_for_none(fake: FakeExecution):
    """What is on its way is 0 when nobody waits."""
    done = aegis(*SUBMIT, "--no-plan", "--no-wait", "-o", "json")
    assert done.exit_code == 0
    assert fake.names() == ["SubmitAction"]
    assert json.loads(done.stdout)["state"] == "STATE_APPLIED"


def test_submit_as_json_is_one_document(fake: FakeExecution):
    """The action at its end, and nothing else on standard output."""
    fake.steps = [ONCALL]
    document = json.loads(aegis(*SUBMIT, "-o", "json").stdout)
    assert document["state"] == "STATE_VERIFIED"
    assert document["approvals"][0]["approver"] == "user:mia"


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        (Action.STATE_VERIFIED, 0),
        (Action.STATE_INEFFECTIVE, 3),
        (Action.STATE_INCONCLUSIVE, 3),
        (Action.STATE_COMPENSATED, 3),
        (Action.STATE_ESCALATED, 3),
        (Action.STATE_FAILED, 4),
        (Action.STATE_REFUSED, 4),
        (Action.STATE_UNKNOWN, 5),
    ],
)
def test_exit_code_tells_the_verdict(fake: FakeExecution, verdict: int, code: int):
    """As the help says."""
    fake.verdicts.append(verdict)
    assert aegis(*SUBMIT).exit_code == code


def test_rejected_action_exits_4_with_the_reason(fake: FakeExecution):
    """Somebody said no."""
    fake.steps, fake.rejects = [ONCALL], True
    done = aegis(*SUBMIT)
    assert done.exit_code == 4
    assert "rejected  not tonight" in done.stdout


def test_denied_request_exits_1_with_a_next_step(fake: FakeExecution):
    """The refusal is the server's."""
    fake.tell("SubmitAction", PermissionDenied("POLICY_DENIED", "no rule allows it"))
    done = aegis(*SUBMIT)
    assert done.exit_code == 1
    assert "POLICY_DENIED" in done.stderr
    assert "aegis policy check" in done.stderr


def test_options_of_verification_are_in_the_signed_spec(fake: FakeExecution):
    """A query may hold colons itself."""
    aegis(
        *SUBMIT,
        *("--on-failure", "compensate", "--stabilise", "30s", "--window", "10m"),
        *("--successes", 4, "--alert", "alertname=HighLatency,service=web", "--look-back", "5m"),
        *("--metric", 'job:errors:rate5m{a="b"}:lower:0.1', "--metric", "up:higher"),
        *("--request-id", "0b7ad6ab-5a1e-4c6a-9f3e-2f3d6d1c1a11", "--attr", "severity=high"),
    )
    request = fake.requests[0]
    wanted = Spec.FromString(request.spec).verification
    assert wanted.on_failure == Spec.Verification.ON_FAILURE_COMPENSATE
    assert (wanted.stabilise.seconds, wanted.window.seconds, wanted.successes) == (30, 600, 4)
    assert dict(wanted.alerts[0].labels) == {"alertname": "HighLatency", "service": "web"}
    assert wanted.alerts[0].look_back.seconds == 300
    first, second = wanted.metrics
    assert (first.query, first.tolerance) == ('job:errors:rate5m{a="b"}', 0.1)
    assert first.better == Spec.Verification.MetricProbe.BETTER_LOWER
    assert (second.query, second.better) == ("up", Spec.Verification.MetricProbe.BETTER_HIGHER)
    assert request.request_id == "0b7ad6ab-5a1e-4c6a-9f3e-2f3d6d1c1a11"
    assert dict(request.attributes) == {"severity": "high"}


def test_dry_run_is_signed_as_one(fake: FakeExecution):
    """And is done when it was tried."""
    done = aegis(*SUBMIT, "--dry-run")
    assert done.exit_code == 0
    assert fake.requests[0].mode == envelope_pb2.ActionRequest.MODE_DRY_RUN


def test_glass_is_broken_only_by_typing_the_name(fake: FakeExecution):
    """A slip of the finger sends nothing."""
    words = (*SUBMIT, "--break-glass", "--reason", "all is down")
    slip = aegis(*words, says="yes\n")
    assert slip.exit_code == 2
    assert "Two others have to answer" in slip.stderr
    assert not fake.asked
    done = aegis(*words, says="shop/web-1\n")
    assert done.exit_code == 0, done.output
    assert fake.requests[0].break_glass
    assert "answered for by nobody yet (0 of 2)" in done.stdout


def test_ladder_tells_each_rung_and_ends_at_a_person(fake: FakeExecution):
    """With the exit code of the last one."""
    fake.verdicts.extend([Action.STATE_INEFFECTIVE, Action.STATE_ESCALATED])
    fake.rungs.append(scale("shop", "web", 4))
    done = aegis(*SUBMIT, "--ladder", "--incident", "INC-7")
    assert done.exit_code == 3
    assert "scale_deployment shop/web to 4" in done.stdout
    assert "a person has to look" in done.stdout


def test_ladder_with_a_refused_rung_exits_1(fake: FakeExecution):
    """What was done is told nevertheless."""
    fake.verdicts.append(Action.STATE_INEFFECTIVE)
    fake.rungs.append(scale("shop", "web", 4))
    taken = Action(action_id="a", spec=restart("shop", "w"), state=Action.STATE_INEFFECTIVE)
    taken.next.CopyFrom(scale("shop", "web", 4))
    fake.tell(
        "SubmitAction",
        execution_pb2.SubmitActionResponse(action=taken),
        PermissionDenied("POLICY_DENIED", "no rule"),
    )
    done = aegis(*SUBMIT, "--ladder", "--incident", "INC-7", "-o", "json")
    assert done.exit_code == 1
    assert [each["action_id"] for each in json.loads(done.stdout)] == ["a"]
    assert "POLICY_DENIED" in done.stderr


def test_continue_signs_the_same_request_again(fake: FakeExecution):
    """The stored id and the exact stored bytes."""
    action = stored(fake, Action.STATE_APPROVED, request_id="r-1")
    done = aegis("continue", "a-1", "--reason", "go")
    assert done.exit_code == 0, done.output
    (request,) = fake.requests
    assert (request.request_id, request.spec) == ("r-1", action.spec_bytes)


def test_continue_of_what_waits_or_has_ended_signs_nothing(fake: FakeExecution):
    """It only says where it stands."""
    pending(fake)
    assert aegis("continue", "a-1", "--no-wait").exit_code == 6
    stored(fake, Action.STATE_EXPIRED, "a-2")
    done = aegis("continue", "a-2")
    assert (done.exit_code, "submit it again" in done.stdout) == (4, True)
    assert not fake.requests


def test_continue_without_waiting_signs_once(fake: FakeExecution):
    """And leaves it on its way."""
    stored(fake, Action.STATE_APPROVED, request_id="r-1")
    assert aegis("continue", "a-1", "--no-wait").exit_code == 0
    assert fake.names() == ["GetAction", "SubmitAction"]


# people


def test_approval_is_given_after_a_look(fake: FakeExecution):
    """At the difference and the digest, which goes with the approval."""
    action = pending(fake)
    fake.plan.differences.add(path="spec.replicas", before="3", after="5")
    done = aegis("approve", "a-1", "--reason", "looks right", says="y\n")
    assert done.exit_code == 0, done.output
    assert "signed was: scale_deployment shop/web to 5" in done.stdout
    assert "+ spec.replicas: 5" in done.stdout
    assert f"digest {action.action_digest.hex()}" in done.stdout
    request = fake.last("ApproveAction")
    assert request.action_digest == dsse.action_digest(action.spec_bytes)
    assert (request.reason, request.HasField("approval")) == ("looks right", False)


def test_no_is_no(fake: FakeExecution):
    """Nothing is sent."""
    pending(fake)
    done = aegis("approve", "a-1", says="n\n")
    assert done.exit_code == 4
    assert "ApproveAction" not in fake.names()


def test_server_that_shows_other_bytes_is_not_believed(fake: FakeExecution):
    """Who approves a digest has computed it."""
    pending(fake).spec_bytes = scale("shop", "web", 500).SerializeToString()
    done = aegis("approve", "a-1", "--yes")
    assert done.exit_code == 2
    assert "approve nothing" in done.stderr
    assert "ApproveAction" not in fake.names()


def test_approver_sees_the_signed_bytes_not_the_servers_words(fake: FakeExecution):
    """`spec` is the server's rendering, the bytes are what the executor does."""
    action = pending(fake)
    action.spec.scale_deployment.replicas = 4
    done = aegis("approve", "a-1", says="n\n")
    assert "signed was: scale_deployment shop/web to 5" in done.stdout


def test_words_of_others_do_not_command_the_terminal(fake: FakeExecution):
    """A reason that wipes the line above would hide what is approved."""
    pending(fake).incident_id = "harmless\x1b[2K\x1b[1A"
    done = aegis("approve", "a-1", says="n\n")
    assert "\x1b" not in done.stdout
    assert "harmless\N{REPLACEMENT CHARACTER}[2K" in done.stdout


def test_what_waits_for_nobody_is_not_asked_about(fake: FakeExecution):
    """Who types y would only be told that it was in vain."""
    stored(fake, Action.STATE_VERIFIED)
    done = aegis("approve", "a-1", says="y\n")
    assert done.exit_code == 2
    assert "it is verified: there is nothing to approve" in done.stderr
    assert "ApproveAction" not in fake.names()


def test_drift_since_the_plan_is_told_to_the_approver(fake: FakeExecution):
    """The object is at another generation than the one that was planned for."""
    planned = scale("shop", "web", 5)
    planned.preconditions.generation = 3
    action = Action(action_id="a-1", spec=planned, state=Action.STATE_PENDING_APPROVAL)
    fake.add(action).steps.append(ONCALL)
    assert "not as it was planned for" in aegis("approve", "a-1", says="n\n").stdout


def test_approver_who_may_not_plan_can_approve(fake: FakeExecution):
    """The refusal is told and no more."""
    pending(fake)
    fake.tell("PlanAction", PermissionDenied("POLICY_DENIED", "you may not plan"))
    done = aegis("approve", "a-1", says="y\n")
    assert done.exit_code == 0
    assert "cannot be planned now: you may not plan" in done.stdout


def test_digest_that_is_another_stops_the_approval(fake: FakeExecution):
    """For programs, which say what they looked at."""
    action = pending(fake)
    assert aegis("approve", "a-1", "--yes", "--digest", "beef").exit_code == 2
    begin = action.action_digest.hex()[:12]
    done = aegis("approve", "a-1", "--yes", "--digest", begin, "-o", "json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["action_id"] == "a-1"


def test_detached_approval_is_signed_for_the_step_of_ones_group(
    fake: FakeExecution, tmp_path: Path
):
    """With a key of the approver's own, over digest, action, step and group."""
    steps = [
        envelope_pb2.ApprovalStep(step=1, group="role:owner", needed=1, detached=True),
        envelope_pb2.ApprovalStep(step=1, group="role:oncall", needed=1, detached=True),
        envelope_pb2.ApprovalStep(step=2, group="role:board", needed=1),
    ]
    action = pending(fake, *steps)
    key = Ed25519PrivateKey.generate()
    (tmp_path / "mine.key").write_bytes(pem(key))
    assert aegis("approve", "a-1", "--yes").exit_code == 2
    done = aegis("approve", "a-1", "--yes", "--detached", "--key", tmp_path / "mine.key")
    assert done.exit_code == 0, done.output
    request = fake.last("ApproveAction")
    payload, _ = dsse.verify(
        request.approval, dsse.APPROVAL_TYPE, lambda key_id: ("mine", public_half(key))
    )
    said = envelope_pb2.ActionApproval.FromString(payload)
    assert (said.step, said.group, request.group) == (1, "role:oncall", "role:oncall")
    assert (said.approver, said.action_id) == ("user:ann", "a-1")
    assert said.action_digest == action.action_digest


def test_detached_approval_of_what_is_complete_signs_nothing(fake: FakeExecution, tmp_path: Path):
    """There is no step to sign for."""
    action = pending(fake)
    action.approvals.add(approver="user:mia", step=1, group="role:oncall")
    action.state = Action.STATE_APPROVED
    (tmp_path / "pki" / "admin-approval.key").write_bytes(pem(Ed25519PrivateKey.generate()))
    done = aegis("approve", "a-1", "--yes", "--detached")
    assert done.exit_code == 2
    assert "no such step" in " ".join(done.stderr.split())


def detached_approval(fake: FakeExecution, tmp_path: Path) -> envelope_pb2.ActionApproval:
    """What the caller signs with a key of their own."""
    (tmp_path / "pki" / "admin-approval.key").write_bytes(pem(Ed25519PrivateKey.generate()))
    done = aegis("approve", "a-1", "--yes", "--detached")
    assert done.exit_code == 0, done.output
    payload = fake.last("ApproveAction").approval.payload
    return envelope_pb2.ActionApproval.FromString(payload)


@pytest.mark.parametrize("given", [["user:mia", "user:max"], ["user:ann"]])
def test_detached_approval_is_signed_where_others_do_not_count(
    fake: FakeExecution, tmp_path: Path, given: list[str]
):
    """The server's word for others is no key, and one's own may have ended: it still waits."""
    signed = envelope_pb2.ApprovalStep(step=1, group="role:oncall", needed=1, detached=True)
    both = envelope_pb2.ApprovalStep(step=1, group="role:oncall", needed=2)
    action = pending(fake, *([both, signed] if len(given) > 1 else [signed]))
    for who in given:
        action.approvals.add(approver=who, step=1, group="role:oncall", detached=len(given) < 2)
    said = detached_approval(fake, tmp_path)
    assert (said.step, said.group) == (1, "role:oncall")


def test_detached_approval_lasts_until_it_is_needed(fake: FakeExecution, tmp_path: Path):
    """Others may take their time, and its issuer five minutes after them; never more than a day."""
    action = pending(fake, envelope_pb2.ApprovalStep(step=1, group="role:oncall", needed=1))
    for waits, lasts in ((timedelta(minutes=14), 25), (timedelta(days=9), 24 * 60)):
        action.approval_expire_time.FromDatetime(datetime.now(UTC) + waits)
        said = detached_approval(fake, tmp_path)
        life = said.expire_time.ToDatetime() - said.decide_time.ToDatetime()
        assert timedelta(minutes=lasts) <= life <= timedelta(hours=24)


def test_approving_ones_own_says_who_may(fake: FakeExecution):
    """The server refuses; the command tells the next step."""
    pending(fake)
    fake.tell("ApproveAction", PermissionDenied("APPROVAL_OWN", "you asked for it"))
    done = aegis("approve", "a-1", "--yes")
    assert done.exit_code == 1
    assert "somebody else has to" in done.stderr


@pytest.mark.parametrize(
    ("words", "method"),
    [
        (("reject", "a-1", "--reason", "no"), "RejectAction"),
        (("cancel", "a-1", "--reason", "no"), "CancelAction"),
        (("resolve", "a-1", "--found", "not-applied", "--reason", "no"), "ResolveAction"),
        (("review", "a-1", "--reason", "no"), "ReviewBreakGlass"),
    ],
)
def test_decisions_travel_with_their_reason(
    fake: FakeExecution, words: tuple[object, ...], method: str
):
    """And show the action as it stands then."""
    pending(fake)
    done = aegis(*words)
    assert done.exit_code == 0, done.output
    assert "a-1" in done.stdout
    assert fake.last(method).reason == "no"
    assert json.loads(aegis(*words, "-o", "json").stdout)["action_id"] == "a-1"


def test_resolution_says_what_was_found(fake: FakeExecution):
    """In the cluster, by a person."""
    stored(fake, Action.STATE_UNKNOWN)
    aegis("resolve", "a-1", "--found", "applied", "--reason", "it runs")
    found = fake.last("ResolveAction").found
    assert found == execution_pb2.ResolveActionRequest.FOUND_APPLIED


# looking


def test_why_prints_each_gate_with_its_numbers(fake: FakeExecution):
    """Passed, refused, and those that were not asked any more."""
    stored(fake, Action.STATE_REFUSED, reason="BUDGET_EXHAUSTED")
    spent = gate("budget.hour.target", Gate.VERDICT_REFUSED, "3 of 3 in an hour")
    spent.reason = "BUDGET_EXHAUSTED"
    spent.retry_time.seconds = BORN + 60
    answer = execution_pb2.WhyActionResponse(
        action=fake.actions["a-1"],
        gates=[gate("kill-switch", Gate.VERDICT_PASSED, "nothing is paused"), spent],
    )
    fake.tell("WhyAction", answer, answer)
    done = aegis("why", "a-1")
    assert done.exit_code == 0
    assert "✓ kill-switch         nothing is paused" in done.stdout
    assert (
        "✗ budget.hour.target  refused BUDGET_EXHAUSTED: 3 of 3 in an hour; not before 22:14:20"
        in done.stdout
    )
    document = json.loads(aegis("why", "a-1", "-o", "json").stdout)
    assert [each["verdict"] for each in document["gates"]] == ["VERDICT_PASSED", "VERDICT_REFUSED"]


def test_show_tells_what_people_look_for(fake: FakeExecution):
    """Glass, reviews, observations, the next rung."""
    action = stored(fake, Action.STATE_INEFFECTIVE, break_glass=True, incident_id="INC-7")
    action.reviews.add(approver="user:mia", reason="had to be")
    action.observations["replicas"] = "3"
    action.next.CopyFrom(scale("shop", "web", 6))
    done = aegis("show", "a-1")
    for words in (
        "a-1 scale_deployment shop/web to 5 ineffective",
        "incident INC-7",
        "answered for by user:mia “had to be” (1 of 2)",
        "replicas: 3",
        "scale_deployment shop/web to 6",
    ):
        assert words in done.stdout


def test_unknown_action_says_where_to_look(fake: FakeExecution):
    """Exit code 1."""
    done = aegis("show", "a-9")
    assert done.exit_code == 1
    assert "list" in done.stderr


def test_list_filters_by_state_and_incident(fake: FakeExecution):
    """The server does."""
    answer = execution_pb2.ListActionsResponse(
        actions=[stored(fake, Action.STATE_APPLIED)], next_page_token="more"
    )
    fake.tell("ListActions", answer)
    done = aegis("list", "--state", "applied", "--state", "dry-run", "--incident", "INC-7")
    request = fake.last("ListActions")
    assert list(request.states) == [Action.STATE_APPLIED, Action.STATE_DRY_RUN]
    assert (request.incident_id, request.page_size) == ("INC-7", 20)
    assert "there are more" in done.stdout
    assert "applied" in done.stdout


def test_list_puts_first_what_waits_for_somebody(fake: FakeExecution):
    """However old it is."""
    old, new = pending(fake), stored(fake, Action.STATE_VERIFIED, "a-2", break_glass=True)
    fake.tell(
        "ListActions",
        execution_pb2.ListActionsResponse(actions=[old]),
        execution_pb2.ListActionsResponse(actions=[new, old]),
    )
    done = aegis("list", "--waiting-first", "-o", "json")
    assert [each["action_id"] for each in json.loads(done.stdout)] == ["a-1", "a-2"]
    fake.tell("ListActions", execution_pb2.ListActionsResponse(actions=[new]))
    assert "verified (glass)" in aegis("list").stdout


def test_watch_tells_every_change(fake: FakeExecution):
    """JSON comes one document a line."""
    stored(fake, Action.STATE_APPLIED)
    done = aegis("watch", "a-1", "-o", "json")
    assert done.exit_code == 0
    states = [json.loads(line)["state"] for line in done.stdout.splitlines()]
    assert states == ["STATE_APPLIED", "STATE_VERIFIED"]
    assert "verified" in aegis("watch", "a-1").stdout
