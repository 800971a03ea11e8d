"""What is judged and what comes of it: plain values that cross the border of a worker process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from aegis_learning.datasets import Split
from aegis_learning.models import Family
from aegis_server.review.findings import Finding


class Verdict(StrEnum):
    """What the review decided about an update."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    HELD = "held"


#: Features that begin so are sums over the run: no two rounds have comparable ones.
OF_THE_RUN = "run/"


@dataclass(frozen=True, slots=True)
class Past:
    """An earlier update of the same participant in the same run, as it was judged.

    `features` are the numbers the detector saw, and sums over the run; `sketch` is a short stand-in
    for the update's direction (`review.sketches`), so that two rounds can be compared without
    their bytes.
    """

    round: int
    verdict: Verdict
    score: float
    features: Mapping[str, float]
    sketch: bytes


@dataclass(frozen=True, slots=True)
class Submission:
    """An update as it was sent.

    `examples` are the rows its participant enrolled (0: unknown), `noise` the standard deviation
    each of its numbers has at least when the participant adds the noise it promised (0: none was).
    `past` is oldest first.
    """

    update_id: str
    data: bytes
    examples: int
    participant: str = ""
    noise: float = 0.0
    past: tuple[Past, ...] = ()


@dataclass(frozen=True, slots=True)
class Local:
    """How participants train: what the review repeats on the golden rows for a root update."""

    steps: int = 4
    learning_rate: float = 0.5
    centre: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """A whole round, ready for judgement; `base` is the model every update starts from.

    `before` is the model of the round before it, empty when there is none. `round` counts from 1.
    `detector` and `shadow` are files of `review.detectors`; empty means the one that ships, and
    none. `seed` is for examiners that draw; the same case is judged the same.
    """

    family: Family
    golden: Split
    base: bytes
    submissions: tuple[Submission, ...]
    before: bytes = b""
    round: int = 1
    local: Local = Local()
    detector: bytes = b""
    shadow: bytes = b""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on one update, with everything it rests on, strongest finding first.

    `score` is 1 where rejection begins; `false_positive_rate` is the share of honest updates that
    score as high. `would_change` says, a sentence each, what would have changed the verdict.
    """

    update_id: str
    verdict: Verdict
    score: float
    findings: tuple[Finding, ...]
    false_positive_rate: float = 1.0
    would_change: tuple[str, ...] = ()
    features: Mapping[str, float] = field(default_factory=dict)
    sketch: bytes = b""
    shadow_score: float | None = None

    @property
    def reason(self) -> str:
        """Names what decided against the update, e.g. `length/norm_z`; empty when accepted."""
        if self.verdict is Verdict.ACCEPTED or not self.findings:
            return ""
        return f"{self.findings[0].examiner}/{self.findings[0].measure}"


@dataclass(frozen=True, slots=True)
class Ruling:
    """How a round was judged: a judgement for each submission, in their order.

    With `fallback` nobody can tell who the odd ones are: what would have been rejected is HELD, and
    the next model may only be a robust aggregate of `members` (update ids). `why` is a sentence.
    `detector` and `shadow` are the versions of what decided and of what scored beside it.
    """

    judgements: tuple[Judgement, ...]
    fallback: bool = False
    members: tuple[str, ...] = ()
    why: str = ""
    warming_up: bool = False
    detector: str = ""
    shadow: str = ""
