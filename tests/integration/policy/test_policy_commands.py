"""`aegis policy` against a server that gives the answers it was told to, over a real channel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent import futures
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import Result
from google.protobuf.message import Message
from tests.commands import invoke

from aegis.cli.policy import calls
from aegis.v1 import policy_admin_pb2 as admin
from aegis.v1 import policy_admin_pb2_grpc, policy_pb2, policy_pb2_grpc

ALLOW, DENY = policy_pb2.EFFECT_ALLOW, policy_pb2.EFFECT_DENY
PENDING = admin.PolicyProposal.STATE_PENDING
RULES = "p, user:ann, aegis, /policy, write, , allow, ann-writes\n"
ID = "0b7ad6ab-5a1e-4c6a-9f3e-2f3d6d1c1a11"


class Answers(
    policy_pb2_grpc.PolicyServiceServicer, policy_admin_pb2_grpc.PolicyAdminServiceServicer
):
    """Gives the next answer for a method and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Message] = []
        self.answers: dict[str, list[Any]] = {}

    def __getattribute__(self, name: str) -> Any:
        if name[:1].isupper():
            return lambda request, _: self.answer(name, request)
        return super().__getattribute__(name)

    def answer(self, name: str, request: Message) -> Any:
        self.asked.append(request)
        return self.answers[name].pop(0)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answers]:
    """A server whose answers the test gives, and the commands' channel to it."""
    answers = Answers()
    running = grpc.server(futures.ThreadPoolExecutor(1))
    policy_pb2_grpc.add_PolicyServiceServicer_to_server(answers, running)
    policy_admin_pb2_grpc.add_PolicyAdminServiceServicer_to_server(answers, running)
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()

    @asynccontextmanager
    async def channel():
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as opened:
            yield opened

    monkeypatch.setattr(calls, "channel", channel)
    yield answers
    running.stop(None).wait()


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    file = tmp_path / "rules.csv"
    file.write_text(RULES)
    return file


def aegis(*words: object) -> Result:
    return invoke(["policy", *map(str, words)])


def revision(number: int = 8) -> policy_pb2.PolicyRevision:
    return policy_pb2.PolicyRevision(revision=number, rule_count=3, actor="user:ann", reason="why")


def rule(place: int = 7, **fields: Any) -> admin.PolicyRule:
    return admin.PolicyRule(
        place=place, etag=f"etag-{place}", kind="g2", fields=["user:ann", "role:a"], **fields
    )


def test_explanation_is_told_with_rules_roles_and_conditions(server: Answers) -> None:
    """And with what would have allowed it."""
    trace = policy_pb2.RuleTrace(
        rule="p, role:a, *, /x, read, ctx.n > 3, allow, r",
        role_path=["user:ann", "role:a"],
        condition="ctx.n > 3",
        outcome="false",
        values={"n": "2"},
    )
    decision = policy_pb2.EvaluateResponse(effect=DENY, revision=8)
    server.answers["Explain"] = [
        policy_pb2.ExplainResponse(
            decision=decision, roles=["role:a"], failed=[trace], would_allow=["ctx.n above 3"]
        )
    ]
    done = aegis("explain", "user:ann", "/x", "read", "--attr", "n=2", "--revision", 8)
    assert done.exit_code == 0, done.output
    for words in ("DENY no rule allows it", "through user:ann > role:a", "false: n = 2", "above 3"):
        assert words in done.stdout
    assert server.asked[0].revision == 8
    assert server.asked[0].request.attributes["n"] == 2


def test_permissions_are_listed(server: Answers) -> None:
    """One row a permission."""
    found = policy_pb2.Permission(subject="user:ann", resource="/a/**", action="*", rule_id="r")
    answer = policy_pb2.ListPermittedResponse(permissions=[found], next_page_token="t", revision=8)
    server.answers["ListPermitted"] = [answer, answer]
    done = aegis("permitted", "--subject", "user:ann")
    assert "/a/**" in done.stdout
    assert "there are more" in done.stdout
    assert json.loads(aegis("permitted", "--resource", "/a", "-o", "json").stdout)


def test_line_is_replaced_with_its_etag(server: Answers) -> None:
    """The command looks it up by place, over pages, and shows what it saw."""
    server.answers["ListRules"] = [
        admin.ListRulesResponse(rules=[rule(5)], next_page_token="more"),
        admin.ListRulesResponse(rules=[rule(7)]),
    ]
    server.answers["ApplyPolicyChanges"] = [admin.ApplyPolicyChangesResponse(revision=revision())]
    done = aegis("replace", 7, "g2, user:ann, role:b", "--reason", "moved")
    assert done.stdout == "revision 8: 3 rules\n"
    (change,) = server.asked[-1].changes
    assert (change.replace.place, change.replace.etag) == (7, "etag-7")
    assert server.asked[-1].reason == "moved"


def test_rule_is_removed_by_its_id(server: Answers) -> None:
    """And what is not there is refused."""
    server.answers["ListRules"] = [
        admin.ListRulesResponse(rules=[rule()]),
        admin.ListRulesResponse(),
    ]
    server.answers["ApplyPolicyChanges"] = [admin.ApplyPolicyChangesResponse(proposal_id=ID)]
    done = aegis("remove", "my-rule", "--reason", "gone")
    assert f"aegis policy approve {ID}" in done.stdout
    assert server.asked[0].rule_id == "my-rule"
    assert server.asked[1].changes[0].delete.etag == "etag-7"
    missing = aegis("remove", "other", "--reason", "gone")
    assert (missing.exit_code, "there is no line other" in missing.stderr) == (2, True)


def test_line_is_added_and_rules_are_listed(server: Answers) -> None:
    """With the place it should have; a dry run says that nothing was stored."""
    server.answers["ApplyPolicyChanges"] = [admin.ApplyPolicyChangesResponse(revision=revision())]
    server.answers["ListRules"] = [admin.ListRulesResponse(rules=[rule()], revision=8)]
    done = aegis("add", "g2, user:ann, role:a", "--reason", "r", "--before", 5, "--dry-run")
    assert done.stdout == "all good; nothing was stored\n"
    assert server.asked[0].changes[0].create.before_place == 5
    assert server.asked[0].validate_only
    assert "g2, user:ann, role:a" in aegis("rules", "--subject", "user:ann").stdout


def test_rules_are_exported_for_casbin(server: Answers, tmp_path: Path) -> None:
    """With Aegis' own model where they have no other."""
    answer = policy_pb2.GetPolicyResponse(revision=revision(), csv=RULES)
    server.answers["GetPolicy"] = [answer, answer]
    assert aegis("export", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / "rules.csv").read_text() == RULES
    assert "[matchers]" in (tmp_path / "out" / "model.conf").read_text()
    stories = tmp_path / "s.yaml"
    story = "{story: S, subject: user:ann, action: write, resource: /policy, expect: allow}"
    stories.write_text(f"cases: [{story}]")
    assert "1 passed" in aegis("test", stories).stdout


def test_file_is_imported_with_its_model(server: Answers, draft: Path) -> None:
    """Both texts go to the server."""
    server.answers["ImportPolicy"] = [policy_pb2.ImportPolicyResponse(revision=revision())]
    done = aegis("import", draft, "--reason", "r", "--model", draft, "-o", "json")
    assert json.loads(done.stdout)["revision"] == "8"
    assert (server.asked[0].csv, server.asked[0].model_conf) == (RULES, RULES)


def test_lint_of_the_server_is_shown(server: Answers) -> None:
    """The current rules, when no file is named."""
    finding = admin.LintFinding(
        severity=admin.LintFinding.SEVERITY_ERROR, check="lock-out", text="nobody"
    )
    server.answers["LintPolicy"] = [admin.LintPolicyResponse(findings=[finding])]
    done = aegis("lint")
    assert done.exit_code == 1
    assert "lock-out" in done.stdout
    assert server.asked[0].WhichOneof("what") == "revision"


def test_simulation_tells_what_would_flip(server: Answers, draft: Path) -> None:
    """And of how many."""
    flip = admin.Flip(
        request=policy_pb2.EvaluateRequest(subject="user:ann", action="read", resource="/a"),
        before=ALLOW,
        before_rule_id="r",
        after=DENY,
        times=3,
    )
    server.answers["SimulatePolicy"] = [
        admin.SimulatePolicyResponse(
            requests=9,
            decisions=20,
            flips=[flip],
            flipped_requests=1,
            flipped_decisions=3,
            without_attributes=2,
        )
    ]
    done = aegis("simulate", draft, "--days", 14)
    words = " ".join(done.stdout.split())
    assert "allow r deny user:ann read /a 3" in words
    assert "1 of 9 different requests would be decided otherwise, 3 of 20 decisions" in words
    assert "2 requests cannot be decided again: they hang on attributes" in words


def test_difference_is_told_in_words(server: Answers, draft: Path) -> None:
    """Alone, what the newest revision changed; with a file, what that would."""
    differences = [
        admin.PolicyDifference(text="x is new", after="a"),
        admin.PolicyDifference(text="y is gone", before="b"),
        admin.PolicyDifference(text="z changed", before="c", after="d"),
    ]
    server.answers["ListRevisions"] = [
        admin.ListRevisionsResponse(revisions=[revision(8), revision(7)])
    ]
    server.answers["DiffPolicy"] = [
        admin.DiffPolicyResponse(differences=differences),
        admin.DiffPolicyResponse(),
    ]
    assert aegis("diff").stdout == "  + x is new\n  - y is gone\n  ~ z changed\n"
    assert (server.asked[1].from_revision, server.asked[1].to_revision) == (7, 0)
    assert aegis("diff", "--file", draft).stdout == "no difference\n"
    assert server.asked[2].draft.csv == RULES


def test_history_and_rollback(server: Answers) -> None:
    """Revisions are listed, and one of them comes back."""
    server.answers["ListRevisions"] = [admin.ListRevisionsResponse(revisions=[revision()])]
    server.answers["RollbackPolicy"] = [admin.RollbackPolicyResponse(revision=revision(9))]
    assert "user:ann" in aegis("history").stdout
    done = aegis("rollback", 7, "--reason", "r", "--expected-revision", 8)
    assert done.stdout == "revision 9: 3 rules\n"
    assert (server.asked[1].to_revision, server.asked[1].expected_revision) == (7, 8)


def test_proposals_are_shown_and_decided(server: Answers) -> None:
    """With what they would change."""
    proposal = admin.PolicyProposal(
        proposal_id=ID,
        state=PENDING,
        proposer="user:bob",
        differences=[admin.PolicyDifference(text="x is new", after="a")],
    )
    approved = admin.PolicyProposal(
        proposal_id=ID, state=admin.PolicyProposal.STATE_APPROVED, revision=9
    )
    server.answers["ListPolicyProposals"] = [
        admin.ListPolicyProposalsResponse(proposals=[proposal])
    ]
    server.answers["DecidePolicyProposal"] = [
        admin.DecidePolicyProposalResponse(proposal=approved),
        admin.DecidePolicyProposalResponse(proposal=proposal),
    ]
    assert "+ x is new" in aegis("proposals", "--pending").stdout
    assert aegis("approve", ID).stdout == f"{ID} approved: revision 9\n"
    assert aegis("reject", ID, "--reason", "no").exit_code == 0
    assert [each.approve for each in server.asked[1:]] == [True, False]


def test_baseline_is_adopted(server: Answers) -> None:
    """What it adds and what it leaves out."""
    server.answers["AdoptBaseline"] = [
        admin.AdoptBaselineResponse(revision=revision(), added=["p, x"], left_out=["p, y"]),
        admin.AdoptBaselineResponse(),
    ]
    done = aegis("adopt-baseline", "--reason", "upgrade")
    assert done.stdout == "added: p, x\nleft out, as before: p, y\nrevision 8: 3 rules\n"
    assert aegis("adopt-baseline", "--reason", "r").stdout == "nothing to add\n"


def test_decisions_are_listed_and_exported(server: Answers, tmp_path: Path) -> None:
    """By the same filters; an export is a line of JSON a decision."""
    record = admin.DecisionRecord(
        decision_id=ID,
        effect=DENY,
        request=policy_pb2.EvaluateRequest(subject="user:ann", action="read", resource="/a"),
    )
    server.answers["ListDecisions"] = [admin.ListDecisionsResponse(decisions=[record])]
    batches = [admin.ExportDecisionsResponse(decisions=[record, record])]
    server.answers["ExportDecisions"] = [iter(batches), iter(batches)]
    narrowed = ("--effect", "deny", "--since", "2026-03-02", "--subject", "user:ann")
    assert "/a" in aegis("decisions", *narrowed).stdout
    assert server.asked[0].filter.effect == DENY
    assert server.asked[0].filter.start_time.seconds == 1772409600
    done = aegis("export-decisions", *narrowed, "--one-in", 100)
    assert [json.loads(line)["decision_id"] for line in done.stdout.splitlines()] == [ID, ID]
    assert server.asked[1].one_in == 100
    assert aegis("export-decisions", "--out", tmp_path / "d.jsonl").exit_code == 0
    assert len((tmp_path / "d.jsonl").read_text().splitlines()) == 2
