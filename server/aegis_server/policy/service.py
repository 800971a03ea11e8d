"""PolicyService: wire to values and back, and the record of every answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime

from google.rpc import status_pb2

from aegis.errors import AegisError, InvalidArgument
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Context, current_call
from aegis.serving.pages import decode_token, encode_token, page_size
from aegis.v1 import policy_pb2, policy_pb2_grpc
from aegis_server.policy.decisionlog import DecisionLog
from aegis_server.policy.decisionlog.entry import Entry
from aegis_server.policy.decisionlog.service import report
from aegis_server.policy.decisions import Decision, Decisions
from aegis_server.policy.messages import revision_message
from aegis_server.policy.question import Question
from aegis_server.policy.reasons import explanation, permission_message, permissions
from aegis_server.policy.revisions import Change, Revisions
from aegis_server.policy.watching import Source, watch
from aegis_server.policy.wire import (
    DEFAULT_DOMAIN,
    answer_message,
    bad,
    checked,
    consistency_of,
    question_of,
)

_NO_ANSWER = policy_pb2.EvaluateResponse()

Standing = Callable[[], Mapping[str, Sequence[str]]]


class PolicyService(policy_pb2_grpc.PolicyServiceServicer):
    """Answers questions about permission, and takes new rules."""

    def __init__(
        self,
        *,
        decisions: Decisions,
        revisions: Revisions,
        log: DecisionLog,
        news: Source,
        deeds: Deeds,
        clock: Callable[[], datetime],
        standing: Standing = dict,
    ) -> None:
        self._decisions = decisions
        self._revisions = revisions
        self._log = log
        self._news = news
        self._deeds = deeds
        self._clock = clock
        self._standing = standing

    async def Evaluate(
        self, request: policy_pb2.EvaluateRequest, context: Context
    ) -> policy_pb2.EvaluateResponse:
        """Decides, hands the decision to the log, answers."""
        question = question_of(request)
        decision = await self._decisions.decide(question, consistency=consistency_of(request))
        self._note(question, decision)
        return answer_message(decision)

    async def BatchEvaluate(
        self, request: policy_pb2.BatchEvaluateRequest, context: Context
    ) -> policy_pb2.BatchEvaluateResponse:
        """As Evaluate, for many questions and one revision."""
        engine = self._decisions.snapshot.engine
        questions = [checked(item, engine) for item in request.requests]
        decisions = await self._decisions.decide_all(questions, consistency=consistency_of(request))
        answers = list(map(self._given, questions, decisions))
        refusals = {n: each for n, each in enumerate(answers) if isinstance(each, AegisError)}
        response = policy_pb2.BatchEvaluateResponse(
            responses=[_NO_ANSWER if isinstance(each, AegisError) else each for each in answers]
        )
        if refusals:
            none = status_pb2.Status()
            for index in range(len(questions)):
                error = refusals.get(index)
                response.statuses.append(error.to_status() if error is not None else none)
        return response

    async def StreamEvaluate(
        self, requests: AsyncIterator[policy_pb2.StreamEvaluateRequest], context: Context
    ) -> AsyncIterator[policy_pb2.StreamEvaluateResponse]:
        """As Evaluate, one answer after the other; a refused question does not end the stream."""
        async for message in requests:
            asked = message.request
            answer: policy_pb2.EvaluateResponse | AegisError
            question = checked(asked, self._decisions.snapshot.engine)
            try:
                decision = (
                    question
                    if isinstance(question, AegisError)
                    else await self._decisions.decide(question, consistency=consistency_of(asked))
                )
                answer = self._given(question, decision)
            except AegisError as error:
                answer = error
            response = policy_pb2.StreamEvaluateResponse(sequence=message.sequence)
            if isinstance(answer, AegisError):
                response.status.CopyFrom(answer.to_status())
            else:
                response.response.CopyFrom(answer)
            yield response

    async def Explain(
        self, request: policy_pb2.ExplainRequest, context: Context
    ) -> policy_pb2.ExplainResponse:
        """Says why; the decision log has no entry of it."""
        question = question_of(request.request, "request.")
        if request.request.HasField("consistency"):
            await self._decisions.decide(question, consistency=consistency_of(request.request))
        snapshot = self._decisions.snapshot
        engine, revision = snapshot.engine, snapshot.revision
        if request.revision not in (0, revision):
            engine, revision = await self._revisions.engine_of(request.revision), request.revision
        held = self._decisions.held_roles(question.subject)
        return explanation(engine, question._replace(roles=held), revision)

    async def ListPermitted(
        self, request: policy_pb2.ListPermittedRequest, context: Context
    ) -> policy_pb2.ListPermittedResponse:
        """What a subject may do, or who may do something."""
        if not request.subject and not request.resource:
            raise bad("subject", "name a subject, or the resource that it is about")
        snapshot, domain = self._decisions.snapshot, request.domain or DEFAULT_DOMAIN
        query = (snapshot.revision, request.subject, domain, request.resource, request.action)
        start = decode_token(request.page_token, "permitted", *query)
        if isinstance(start, str) or (start is not None and start < 0):
            raise InvalidArgument("PAGE_TOKEN_INVALID", "this is no page token")
        found = await asyncio.to_thread(
            permissions,
            snapshot.engine,
            request,
            held=self._standing() if not request.subject else {},
            roles=self._decisions.held_roles(request.subject) if request.subject else (),
        )
        begin, size = start or 0, page_size(request.page_size)
        end = begin + size
        return policy_pb2.ListPermittedResponse(
            permissions=map(permission_message, found[begin:end]),
            next_page_token=encode_token(end, "permitted", *query) if end < len(found) else "",
            revision=snapshot.revision,
        )

    async def ReportDecisions(
        self, request: policy_pb2.ReportDecisionsRequest, context: Context
    ) -> policy_pb2.ReportDecisionsResponse:
        """Takes what a replica decided by itself into the log, under that replica's name."""
        await report(
            self._log,
            request.decisions,
            caller=current_call().caller.subject,
            entries_of=_domain_and_attributes,
            now=self._clock(),
        )
        return policy_pb2.ReportDecisionsResponse()

    async def WatchPolicy(
        self, request: policy_pb2.WatchPolicyRequest, context: Context
    ) -> AsyncIterator[policy_pb2.WatchPolicyResponse]:
        """Tells a replica what it lacks, and every change."""
        async for news in watch(self._news, request):
            yield news

    async def GetPolicy(
        self, request: policy_pb2.GetPolicyRequest, context: Context
    ) -> policy_pb2.GetPolicyResponse:
        """One revision with its rules."""
        revision, csv = await self._revisions.get(request.revision)
        return policy_pb2.GetPolicyResponse(
            revision=revision_message(revision), csv=csv, model_conf=revision.model_conf
        )

    async def ImportPolicy(
        self, request: policy_pb2.ImportPolicyRequest, context: Context
    ) -> policy_pb2.ImportPolicyResponse:
        """Replaces the rules."""
        change = Change(
            csv=request.csv,
            actor=current_call().caller.subject,
            reason=request.reason,
            expected_revision=request.expected_revision,
            validate_only=request.validate_only,
            model_conf=request.model_conf,
        )
        revision, proposal_id = await self._deeds.finish(self._revisions.import_rules(change))
        return policy_pb2.ImportPolicyResponse(
            revision=revision_message(revision) if revision else None, proposal_id=proposal_id
        )

    def _given(
        self, question: Question | AegisError, decision: Decision | AegisError
    ) -> policy_pb2.EvaluateResponse | AegisError:
        """Returns the answer to one question of many, or why it has none."""
        if isinstance(question, AegisError) or isinstance(decision, AegisError):
            return decision if isinstance(decision, AegisError) else question  # type: ignore[return-value]
        try:
            self._note(question, decision)
        except AegisError as error:
            return error
        return answer_message(decision)

    def _note(self, question: Question, decision: Decision) -> None:
        """Hands a decision to the log; raises where it must not be given without."""
        self._log.note(
            Entry(
                decision.at,
                decision.decision_id,
                current_call().caller.subject,
                question.subject,
                question.domain,
                question.resource,
                question.action,
                question.attributes,
                decision.allowed,
                decision.rule_id,
                decision.revision,
                decision.source,
                decision.microseconds,
            )
        )


def _domain_and_attributes(
    request: policy_pb2.EvaluateRequest,
) -> tuple[str, dict[str, object]]:
    question = question_of(request)
    return question.domain, dict(question.attributes)
