"""The options of a plan, and the plan they make of the default one or of a file."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from aegis.cli.durations import duration
from aegis.cli.planfiles import read_plan
from aegis.cli.session import fail
from aegis.plans import ATTACKS, PRIVACY_UNITS, SITES, STRATEGIES, Attacker, Strategy, default_plan
from aegis.v1 import training_pb2
from aegis_learning.plans import DEFAULTS

# What the plan's field can hold.
SEED_MAX = 2**63 - 1

_WHO, _LOOP, _LEARNING = "Who takes part", "Round loop", "Learning and privacy"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a command line says of a plan; None is what it does not say."""

    plan: Annotated[
        Path | None, typer.Option(help="A plan to start from, see `aegis train plan`.")
    ] = None
    seed: Annotated[
        int | None, typer.Option(min=0, max=SEED_MAX, help="Repeats a run exactly.")
    ] = None
    review: Annotated[
        bool | None, typer.Option("--review/--no-review", help="Judge every update first.")
    ] = None
    attack: Annotated[
        str | None, typer.Option(help=f"Let the last site attack: {', '.join(ATTACKS)}")
    ] = None
    simulation: Annotated[
        bool | None,
        typer.Option("--simulation/--no-simulation", help="Noise from the seed; public data only."),
    ] = None

    sites: Annotated[
        str | None, typer.Option(help=f"Where they are: {', '.join(SITES)}", rich_help_panel=_WHO)
    ] = None
    name: Annotated[
        list[str] | None, typer.Option(help="One that takes part; repeat.", rich_help_panel=_WHO)
    ] = None
    participants: Annotated[
        int | None, typer.Option(min=2, max=1000, help="How many.", rich_help_panel=_WHO)
    ] = None
    per_round: Annotated[
        int | None, typer.Option(min=0, help="Asked in a round; 0 is all.", rich_help_panel=_WHO)
    ] = None
    rounds_each: Annotated[
        int | None,
        typer.Option(min=0, help="Rounds one takes part in at most.", rich_help_panel=_WHO),
    ] = None
    app: Annotated[
        str | None,
        typer.Option(help="Application sites run, NAME:SHA256.", rich_help_panel=_WHO),
    ] = None

    rounds: Annotated[
        int | None, typer.Option(min=1, max=500, help="Rounds.", rich_help_panel=_LOOP)
    ] = None
    min_participants: Annotated[
        int | None,
        typer.Option(min=1, help="Accepted updates a round needs.", rich_help_panel=_LOOP),
    ] = None
    deadline: Annotated[
        str | None, typer.Option(help="Of a round, e.g. 60s.", rich_help_panel=_LOOP)
    ] = None
    grace: Annotated[
        str | None,
        typer.Option(help="For the others, once enough have answered.", rich_help_panel=_LOOP),
    ] = None
    retries: Annotated[
        int | None,
        typer.Option(min=0, max=10, help="For one that fails.", rich_help_panel=_LOOP),
    ] = None
    quarantine_after: Annotated[
        int | None,
        typer.Option(min=0, help="Missed rounds in a row; 0 is never.", rich_help_panel=_LOOP),
    ] = None
    quarantine_rounds: Annotated[
        int | None, typer.Option(min=0, help="How long it lasts.", rich_help_panel=_LOOP)
    ] = None
    early_stop: Annotated[
        int | None,
        typer.Option(min=1, help="End after so many rounds without gain.", rich_help_panel=_LOOP),
    ] = None
    min_gain: Annotated[
        float | None,
        typer.Option(min=0, help="What --early-stop calls a gain.", rich_help_panel=_LOOP),
    ] = None
    review_hold: Annotated[
        str | None,
        typer.Option(help="Wait for a person where updates are held.", rich_help_panel=_LOOP),
    ] = None

    dataset: Annotated[
        str | None, typer.Option(help="What rows are about.", rich_help_panel=_LEARNING)
    ] = None
    model: Annotated[
        str | None, typer.Option(help="mlp, logistic, mlp-64-32 …", rich_help_panel=_LEARNING)
    ] = None
    local_steps: Annotated[
        int | None, typer.Option(min=1, help="Of a site in a round.", rich_help_panel=_LEARNING)
    ] = None
    learning_rate: Annotated[
        float | None, typer.Option(help="Of those steps.", rich_help_panel=_LEARNING)
    ] = None
    epsilon: Annotated[
        float | None,
        typer.Option(
            help="Privacy the run may cost; with a plan measured for it.", rich_help_panel=_LEARNING
        ),
    ] = None
    delta: Annotated[
        float | None, typer.Option(help="Below 1/rows of a site.", rich_help_panel=_LEARNING)
    ] = None
    privacy_unit: Annotated[
        str | None,
        typer.Option(help=f"Whom it protects: {', '.join(PRIVACY_UNITS)}",
                     rich_help_panel=_LEARNING),
    ] = None  # fmt: skip
    update_clip_norm: Annotated[
        float | None, typer.Option(help="participant: bound.", rich_help_panel=_LEARNING)
    ] = None
    strategy: Annotated[
        str | None,
        typer.Option(help=f"How updates become one: {', '.join(STRATEGIES)}",
                     rich_help_panel=_LEARNING),
    ] = None  # fmt: skip
    malicious: Annotated[
        int | None,
        typer.Option(min=0, max=500, help="Robust strategies: sites that may lie.",
                     rich_help_panel=_LEARNING),
    ] = None  # fmt: skip
    selected: Annotated[
        int | None,
        typer.Option(min=0, max=1000, help="multi-krum: updates that are averaged.",
                     rich_help_panel=_LEARNING),
    ] = None  # fmt: skip
    proximal: Annotated[
        float | None,
        typer.Option(min=0, help="fed-prox: how near sites stay.", rich_help_panel=_LEARNING),
    ] = None
    server_rate: Annotated[
        float | None,
        typer.Option(min=0, help="fed-adam: its learning rate.", rich_help_panel=_LEARNING),
    ] = None
    share_max: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Means: the largest part of one site.",
                     rich_help_panel=_LEARNING),
    ] = None  # fmt: skip
    server_momentum: Annotated[
        float | None,
        typer.Option(min=0, max=0.999, help="fed-avg: how much of earlier rounds goes on.",
                     rich_help_panel=_LEARNING),
    ] = None  # fmt: skip

    @property
    def empty(self) -> bool:
        """Whether the command line says nothing of a plan."""
        return not any(getattr(self, each.name) is not None for each in fields(self))


# Options that are fields of the plan as they are.
_SAME = (
    *("dataset", "model", "rounds", "local_steps", "learning_rate", "delta", "per_round"),
    *("retries", "quarantine_after", "quarantine_rounds", "rounds_each", "min_participants"),
    *("update_clip_norm", "seed", "review", "simulation", "participants"),
)


def with_plan(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command whose first parameter is a `Wanted` the options of one."""
    hints = get_type_hints(Wanted, include_extras=True)
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    options = [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=hints[each.name],
        )
        for each in fields(Wanted)
    ]

    @wraps(command)
    def told(**values: Any) -> None:
        said = {each.name: values.pop(each.name) for each in fields(Wanted)}
        command(Wanted(**said), **values)

    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own] + options
    told.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    told.__annotations__ = {each.name: each.annotation for each in parameters}
    return told


def plan_of(wanted: Wanted) -> training_pb2.RunPlan:
    """Returns the plan of a command line; ends the command where it contradicts itself."""
    plan = _base(wanted)
    for name in _SAME:
        value = getattr(wanted, name)
        if value is not None:
            setattr(plan, name, value)
    if wanted.epsilon is not None:
        plan.target_epsilon = wanted.epsilon
    if wanted.privacy_unit is not None:
        plan.privacy_unit = _named(
            training_pb2.PrivacyUnit, "PRIVACY_UNIT_", wanted.privacy_unit, PRIVACY_UNITS
        )
    _say_loop(plan, wanted)
    _say_sites(plan, wanted)
    if wanted.attack is not None:
        attacker = attacker_named(wanted.attack)
        plan.attacks.append(attacker.message(f"site-{plan.participants}"))
    return plan


def _say_loop(plan: training_pb2.RunPlan, wanted: Wanted) -> None:
    if wanted.deadline is not None:
        plan.round_deadline.CopyFrom(duration(wanted.deadline, "--deadline"))
    if wanted.grace is not None:
        plan.grace.CopyFrom(duration(wanted.grace, "--grace"))
    if wanted.review_hold is not None:
        plan.review_hold.CopyFrom(duration(wanted.review_hold, "--review-hold"))
    if wanted.early_stop is not None:
        plan.early_stop.patience = wanted.early_stop
    if wanted.min_gain is not None:
        if not plan.HasField("early_stop"):
            fail("--min-gain needs --early-stop", "say after how many rounds without gain")
        plan.early_stop.min_gain = wanted.min_gain


def _base(wanted: Wanted) -> training_pb2.RunPlan:
    if wanted.plan is None:
        participants = DEFAULTS.participants if wanted.participants is None else wanted.participants
        # What was measured for a model and an epsilon holds for the data it was measured on.
        measured = wanted.dataset is None and wanted.privacy_unit is None
        return default_plan(
            participants=participants,
            strategy=_strategy(wanted, "fed-avg"),
            model=wanted.model if measured else None,
            epsilon=wanted.epsilon if measured else None,
        )
    plan = read_plan(wanted.plan)
    tuned = (
        *(wanted.strategy, wanted.malicious, wanted.selected, wanted.proximal),
        *(wanted.server_rate, wanted.share_max, wanted.server_momentum),
    )
    if any(each is not None for each in tuned):
        name = training_pb2.Strategy.Name(plan.strategy).removeprefix("STRATEGY_").lower()
        strategy = _strategy(wanted, name)
        plan.strategy = strategy.value
        plan.settings.MergeFrom(strategy.settings)
    return plan


def _strategy(wanted: Wanted, name: str) -> Strategy:
    return strategy_named(
        wanted.strategy or name,
        malicious=wanted.malicious or 0,
        selected=wanted.selected or 0,
        proximal=wanted.proximal or 0,
        server_learning_rate=wanted.server_rate or 0,
        share_max=wanted.share_max or 0,
        server_momentum=wanted.server_momentum or 0,
    )


def _say_sites(plan: training_pb2.RunPlan, wanted: Wanted) -> None:
    if wanted.name:
        del plan.names[:]
        plan.names.extend(wanted.name)
    if wanted.sites is not None:
        plan.sites = _named(training_pb2.Sites, "SITES_", wanted.sites, SITES)
        if wanted.sites != "embedded" and wanted.simulation is None:
            # Their rows are their own: only embedded sites simulate.
            plan.simulation = False
    if wanted.app is not None:
        name, _, sha256 = wanted.app.rpartition(":")
        try:
            digest = bytes.fromhex(sha256)
        except ValueError:
            digest = b""
        if len(digest) != 32 or not name:
            fail(f"--app {wanted.app!r} pins no application", "write NAME:SHA256, in hex digits")
        plan.app.name, plan.app.sha256 = name, digest


def _named(enum: Any, prefix: str, name: str, choices: tuple[str, ...]) -> Any:
    if name not in choices:
        fail(f"there is no {name!r} here", f"choose one of {', '.join(choices)}")
    return enum.Value(prefix + name.upper().replace("-", "_"))


def attacker_named(kind: str, scale: float | None = None) -> Attacker:
    """Returns the attacker of a command line; ends the command for an unknown kind."""
    try:
        return Attacker(kind.replace("_", "-"), scale)
    except ValueError as error:
        fail(str(error), f"choose one of {', '.join(ATTACKS)}")


def strategy_named(name: str, **settings: float) -> Strategy:
    """Returns the strategy of a command line; ends the command for an unknown name."""
    try:
        return Strategy(name.replace("_", "-"), **settings)  # type: ignore[arg-type]
    except ValueError as error:
        fail(str(error), f"choose one of {', '.join(STRATEGIES)}")
