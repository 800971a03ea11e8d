"""What a report states. Every number in it was counted from records; nothing is estimated.

People and programs appear as policy subjects. Free text of people appears nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta


@dataclass(frozen=True, slots=True)
class Period:
    """From `start` on, before `end`; both aware."""

    start: datetime
    end: datetime

    def __contains__(self, at: datetime) -> bool:
        """Half-open, so that the reports of two months count nothing twice."""
        return self.start <= at < self.end


@dataclass(frozen=True, slots=True)
class Count:
    """How often something of a name happened."""

    name: str
    count: int


@dataclass(frozen=True, slots=True)
class LogFacts:
    """One log: its records in the period by kind, and its checkpoints."""

    log_id: str
    records: int
    kinds: tuple[Count, ...]
    # Of the whole log, also before the period: how far back it can be read.
    first_record: datetime | None
    last_record: datetime | None
    checkpoints: int
    # Between two checkpoints that follow each other, where the later one is in the period.
    longest_gap: timedelta | None
    longest_gap_until: datetime | None


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """What one log noted of the other's checkpoints; `rolled_back` is an alarm."""

    recorded: int
    rolled_back: int


@dataclass(frozen=True, slots=True)
class RuleCount:
    """How often a rule decided; an empty rule is "no rule allows it"."""

    rule_id: str
    allowed: int
    denied: int


@dataclass(frozen=True, slots=True)
class DayCount:
    """The decisions of one day, UTC."""

    day: date
    allowed: int
    denied: int


@dataclass(frozen=True, slots=True)
class DecisionFacts:
    """What the policy answered: to questions, at the doors, about actions and about runs.

    `unrecorded` answers were given while the decision log was full; nobody knows more of them.
    """

    allowed: int
    denied: int
    sources: tuple[Count, ...]
    rules: tuple[RuleCount, ...]
    denied_subjects: tuple[Count, ...]
    days: tuple[DayCount, ...]
    unrecorded: int = 0


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """A revision of the rules, or a rule file that was refused (revision 0)."""

    time: datetime
    actor: str
    outcome: str
    revision: int
    lines: int
    digest: str


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A training run that was started, went on or ended in the period; what it promised."""

    run_id: str
    actor: str
    dataset: str
    model: str
    state: str
    review: bool
    simulation: bool
    participants: int
    rounds_planned: int
    rounds_completed: int
    target_epsilon: float
    delta: float
    noise_multiplier: float
    clip_norm: float
    sample_rate: float
    local_steps: int
    # What it had cost each participant at the end of the period.
    epsilon: float


@dataclass(frozen=True, slots=True)
class DatasetBudget:
    """The privacy ledger of a data set at the end of the period, as the server wrote it down.

    `limit`, `delta` and the `spent_…` are None when no record tells them. Simulations use data that
    is no secret and are not charged.
    """

    dataset: str
    limit: float | None
    delta: float | None
    spent_before: float | None
    spent: float | None
    runs_charged: int
    runs_simulated: int
    runs_refused: int


@dataclass(frozen=True, slots=True)
class ParticipantFacts:
    """A site on one data set in the period.

    `epsilon_largest` is of its costliest single run that was charged; across runs the ledger of
    the data set counts, which bounds every site.
    """

    participant: str
    dataset: str
    runs: int
    rounds_aggregated: int
    rounds_left_out: int
    epsilon_largest: float


@dataclass(frozen=True, slots=True)
class VerdictCount:
    """The verdicts on the updates of one participant."""

    participant: str
    accepted: int
    rejected: int
    held: int


@dataclass(frozen=True, slots=True)
class ReviewFacts:
    """What the review took in and decided; an override is a verdict that no `judge` gave."""

    received: int
    accepted: int
    rejected: int
    held: int
    overridden: int
    refusals: tuple[Count, ...]
    participants: tuple[VerdictCount, ...]
    runs_without_review: int


@dataclass(frozen=True, slots=True)
class ActionCount:
    """How often one kind of action came to one outcome."""

    action: str
    outcome: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class ActionFacts:
    """Signed requests to act on clusters, as the server and as the executor tell them."""

    allowed: int
    denied: int
    # By the kind of subject that signed: "automation", "user" …
    issuers: tuple[Count, ...]
    outcomes: tuple[ActionCount, ...]
    refusals: tuple[Count, ...]
    executor: tuple[ActionCount, ...]


@dataclass(frozen=True, slots=True)
class EventCount:
    """How often something happened to accounts, sessions or API keys."""

    about: str
    action: str
    outcome: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class RoleChange:
    """Roles that were given or taken."""

    time: datetime
    actor: str
    subject: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class IdentityFacts:
    """Who came in, who did not, and whose rights changed."""

    logins: int
    failed_logins: int
    accounts_opened: int
    accounts_closed: int
    keys_made: int
    keys_ended: int
    events: tuple[EventCount, ...]
    role_changes: tuple[RoleChange, ...]


@dataclass(frozen=True, slots=True)
class KeyChange:
    """A signing key or the trust bundle changed, or somebody tried."""

    time: datetime
    actor: str
    action: str
    key: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Erasure:
    """What was stored beside a record was erased; its hash stayed."""

    time: datetime
    actor: str
    record: str
    names: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything the report counts."""

    period: Period
    logs: tuple[LogFacts, ...]
    peers: PeerFacts
    decisions: DecisionFacts
    policy_changes: tuple[PolicyChange, ...]
    runs: tuple[RunFacts, ...]
    datasets: tuple[DatasetBudget, ...]
    participants: tuple[ParticipantFacts, ...]
    reviews: ReviewFacts
    actions: ActionFacts
    identity: IdentityFacts
    key_changes: tuple[KeyChange, ...]
    erasures: tuple[Erasure, ...]

    @property
    def records(self) -> int:
        """All records in the period."""
        return sum(log.records for log in self.logs)
