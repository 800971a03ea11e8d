"""The sections on what Aegis governs: training, review, decisions, actions, identity."""

from __future__ import annotations

from aegis.audit.report.blocks import Section, Table, table
from aegis.audit.report.charts import bars, shares
from aegis.audit.report.facts import ActionCount, Count, Facts


def privacy(facts: Facts) -> Section:
    """Returns the section of runs, budgets and participants."""
    return Section(
        "privacy",
        "Differential privacy",
        "DP-SGD, accounted by Rényi differential privacy and composed across runs on the same"
        " data set by the server's ledger. A reservation counts as spent until its run has ended.",
        (
            table(
                "Budget of each data set",
                "data set|limit ε#|at δ#|spent before ε#|spent at the end ε#"
                "|runs charged#|simulations#|runs refused#",
                [
                    (
                        each.dataset,
                        each.limit,
                        each.delta,
                        each.spent_before,
                        each.spent,
                        each.runs_charged,
                        each.runs_simulated,
                        each.runs_refused,
                    )
                    for each in facts.datasets
                ],
                "No run has named a data set.",
                "Simulations use data that is no secret and are not charged.",
            ),
            table(
                "Runs",
                "run|data set|kind|state|review|sites#|rounds#|target ε#|cost ε#",
                [
                    (
                        run.run_id,
                        run.dataset,
                        "simulation" if run.simulation else "private",
                        run.state,
                        "on" if run.review else "off",
                        run.participants,
                        f"{run.rounds_completed} of {run.rounds_planned}",
                        run.target_epsilon,
                        run.epsilon,
                    )
                    for run in facts.runs
                ],
                "No run in the period.",
                "Cost is of each site at the end of the period; a run that failed pays in full.",
            ),
            table(
                "Configuration of DP-SGD",
                "run|δ#|noise multiplier#|clip norm#|sampling rate#|steps a round#",
                [
                    (
                        run.run_id,
                        run.delta,
                        run.noise_multiplier,
                        run.clip_norm,
                        run.sample_rate,
                        run.local_steps,
                    )
                    for run in facts.runs
                ],
                "No run in the period.",
                "Noise is relative to the clip norm.",
            ),
            table(
                "Participants",
                "participant|data set|runs#|in the model#|left out#|costliest run ε#",
                [
                    (
                        each.participant,
                        each.dataset,
                        each.runs,
                        each.rounds_aggregated,
                        each.rounds_left_out,
                        each.epsilon_largest,
                    )
                    for each in facts.participants
                ],
                "No round was completed in the period.",
                "Rounds, and the costliest charged run. Across runs each participant is bounded by"
                " what the data set has spent.",
            ),
        ),
        shares=shares(facts.datasets),
    )


def reviews(facts: Facts) -> Section:
    """Returns the section of verdicts on updates."""
    found = facts.reviews
    return Section(
        "reviews",
        "Review of model updates",
        f"Updates received: {found.received:,}. Verdicts: {found.accepted:,} accepted,"
        f" {found.rejected:,} rejected, {found.held:,} held. Verdicts that somebody else than the"
        f" review set: {found.overridden:,}. Runs without review: {found.runs_without_review:,}.",
        (
            table(
                "Verdicts by participant",
                "participant|accepted#|rejected#|held#",
                [
                    (each.participant, each.accepted, each.rejected, each.held)
                    for each in found.participants
                ],
                "No verdict in the period.",
            ),
            _counts("Updates refused before review", "reason", found.refusals),
        ),
    )


def decisions(facts: Facts) -> Section:
    """Returns the section of what the rules answered."""
    found = facts.decisions
    return Section(
        "decisions",
        "Policy decisions",
        f"Allowed: {found.allowed:,}; denied: {found.denied:,}. What no rule allows is denied."
        + (
            f" Given without a record, while the decision log was full: {found.unrecorded:,}."
            if found.unrecorded
            else ""
        ),
        (
            table(
                "By rule",
                "rule|allowed#|denied#",
                [
                    (each.rule_id or "(no rule allows it)", each.allowed, each.denied)
                    for each in found.rules
                ],
                "No decision in the period.",
            ),
            _counts("Denials by subject", "subject", found.denied_subjects),
            _counts("Where they were asked", "asked", found.sources),
        ),
        bars=bars(found.days, facts.period),
    )


def actions(facts: Facts) -> Section:
    """Returns the section of actions on clusters."""
    found = facts.actions
    return Section(
        "actions",
        "Actions on clusters",
        f"Signed requests that were allowed and sent: {found.allowed:,}; denied by rule:"
        f" {found.denied:,}. This version asks nobody to approve a single action, so there are no"
        " approvals to count.",
        (
            _outcomes("How they ended", found.outcomes),
            _counts("Requests refused before a decision", "reason", found.refusals),
            _counts("Who signed", "kind of subject", found.issuers),
            _outcomes("The executor's own record", found.executor),
        ),
    )


def identity(facts: Facts) -> Section:
    """Returns the section of accounts, sessions and roles."""
    found = facts.identity
    return Section(
        "identity",
        "Accounts, sessions, roles",
        f"Logins: {found.logins:,}, refused: {found.failed_logins:,}. Accounts opened:"
        f" {found.accounts_opened:,}, closed: {found.accounts_closed:,}. API keys made:"
        f" {found.keys_made:,}, revoked: {found.keys_ended:,}.",
        (
            table(
                "Roles given and taken",
                "time (UTC)|by|subject|before|after",
                [
                    (each.time, each.actor, each.subject, each.before or "–", each.after or "–")
                    for each in found.role_changes
                ],
                "None in the period.",
            ),
            table(
                "All events",
                "about|event|outcome|reason|count#",
                [
                    (each.about, each.action, each.outcome, each.reason or "–", each.count)
                    for each in found.events
                ],
                "None in the period.",
            ),
        ),
    )


def _counts(title: str, name: str, counts: tuple[Count, ...]) -> Table:
    rows = [(each.name, each.count) for each in counts]
    return table(title, f"{name}|count#", rows, "None in the period.")


def _outcomes(title: str, counts: tuple[ActionCount, ...]) -> Table:
    rows = [(each.action, each.outcome, each.reason or "–", each.count) for each in counts]
    return table(title, "action|outcome|reason|count#", rows, "None in the period.")
