"""Chapters 1 and 2: five hospitals learn together, and then one of them lies."""

from __future__ import annotations

import uuid

from rich.console import Console

from aegis.cli.demo.board import Board, chapter, side_by_side
from aegis.cli.demo.results import Results
from aegis.plans import Attacker, default_plan
from aegis.v1 import review_pb2, review_pb2_grpc, training_pb2, training_pb2_grpc

# What "collapses" and "within a few points" mean, in accuracy.
COLLAPSE_MIN = 0.15
LOSS_MAX = 0.05


class Learning:
    """Runs the three trainings and draws them round by round."""

    def __init__(
        self,
        *,
        training: training_pb2_grpc.TrainingServiceStub,
        review: review_pb2_grpc.ReviewServiceStub,
        console: Console,
        results: Results,
        attacker: Attacker,
    ) -> None:
        self._training = training
        self._review = review
        self._console = console
        self._results = results
        self._attacker = attacker

    async def tell(self) -> None:
        """Plays both chapters."""
        chapter(self._console, "1. Five honest hospitals train one model")
        honest = await self._run("honest", review=True, attacker=None)
        self._results.epsilon = honest.epsilon
        self._console.print(
            f"{honest.rounds_completed} rounds: accuracy [bold]{honest.accuracy:.3f}[/] on rows"
            f" nobody trained on, epsilon {honest.epsilon:.2f} of {honest.plan.target_epsilon:g}",
            highlight=False,
        )
        self._results.expect(
            "the honest run completes within its privacy budget",
            honest.state == training_pb2.Run.STATE_COMPLETED
            and 0 < honest.epsilon <= honest.plan.target_epsilon,
            f"epsilon {honest.epsilon:.2f} of {honest.plan.target_epsilon:g}",
        )
        chapter(self._console, f"2. One of them poisons the model ({self._attacker.kind})")
        unguarded = await self._run("attacked_review_off", review=False, attacker=self._attacker)
        guarded = await self._run("attacked_review_on", review=True, attacker=self._attacker)
        self._compare(honest, unguarded, guarded)
        await self._show_verdicts(guarded)

    async def _run(self, name: str, *, review: bool, attacker: Attacker | None) -> training_pb2.Run:
        plan = default_plan(seed=self._results.seed, review=review, attacker=attacker)
        start = training_pb2.StartRunRequest(request_id=str(uuid.uuid4()), plan=plan)
        started = (await self._training.StartRun(start, timeout=30)).run
        who = f", {plan.attacks[0].participant} attacks" if plan.attacks else ""
        title = f"review {'on' if review else 'off'}{who}"
        final = started
        with Board(self._console, title, plan) as board:
            watch = training_pb2.WatchRunRequest(run_id=started.run_id)
            async for event in self._training.WatchRun(watch, timeout=600):
                final = event.run
                if event.HasField("round") and event.round.round > 0:
                    board.add(event.round)
        if final.state != training_pb2.Run.STATE_COMPLETED:
            self._results.expect(f"run {name} completes", False, final.reason or "it did not end")
        self._results.measure("accuracy", name, round(final.accuracy, 4))
        request = training_pb2.GetRunRequest(run_id=started.run_id)
        return (await self._training.GetRun(request, timeout=30)).run

    async def _show_verdicts(self, run: training_pb2.Run) -> None:
        request = review_pb2.ListUpdatesRequest(run_id=run.run_id, page_size=1000)
        updates = (await self._review.ListUpdates(request, timeout=30)).updates
        rejected = [u for u in updates if u.verdict == review_pb2.Update.VERDICT_REJECTED]
        accepted = [u for u in updates if u.verdict == review_pb2.Update.VERDICT_ACCEPTED]
        self._results.measure("updates", "accepted", len(accepted))
        self._results.measure("updates", "rejected", len(rejected))
        attacker = run.plan.attacks[0].participant
        wrongly = [u for u in rejected if u.participant != attacker]
        self._results.measure("updates", "honest_rejected", len(wrongly))
        caught = len(rejected) - len(wrongly)
        self._results.expect(
            "the review rejects the poisoned updates",
            caught == run.rounds_completed > 0,
            f"{caught} of {run.rounds_completed}, and {len(wrongly)} honest ones",
        )
        for update in [u for u in rejected if u.participant == attacker][-1:]:
            self._console.print(
                f"\nWhy {update.participant}'s update of round {update.round} was rejected"
                f" (score {update.score:.1f}, rejected from 1):"
            )
            for finding in update.findings:
                if finding.severity >= review_pb2.Finding.SEVERITY_WARNING:
                    self._console.print(f"  [red]•[/] {finding.text}", highlight=False)

    def _compare(
        self, honest: training_pb2.Run, unguarded: training_pb2.Run, guarded: training_pb2.Run
    ) -> None:
        self._console.print()
        self._console.print(
            side_by_side(
                [
                    ("honest, review on", "green", honest),
                    ("attacked, review off", "red", unguarded),
                    ("attacked, review on", "green", guarded),
                ]
            )
        )
        self._results.expect(
            "without review the model collapses",
            unguarded.accuracy <= honest.accuracy - COLLAPSE_MIN,
            f"{honest.accuracy:.3f} → {unguarded.accuracy:.3f}",
        )
        self._results.expect(
            "with review accuracy stays within a few points",
            guarded.accuracy >= honest.accuracy - LOSS_MAX,
            f"{honest.accuracy:.3f} → {guarded.accuracy:.3f}",
        )
