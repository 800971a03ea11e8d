"""Where a model comes from, as a tree for a terminal and as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.markup import escape
from rich.tree import Tree

from aegis.cli.execution.drawing import Box, Drawing, Kind, Label
from aegis.cli.model.calls import standing_of, verdict_of
from aegis.v1 import model_pb2, review_pb2

_WIDTH, _TOP, _STEP = 960, 96, 52
# The column of models, and the bar of what each was made of, right of it.
_LEFT, _BAR, _BAR_WIDTH = 24, 420, 516
_DRAWN_MAX = 200
_ACCEPTED = review_pb2.Update.VERDICT_ACCEPTED
_UNREVIEWED = review_pb2.Update.VERDICT_UNSPECIFIED


def tree(models: Sequence[model_pb2.Model]) -> Tree:
    """Returns the run, its models newest first, and what each was made of."""
    newest = models[0]
    root = Tree(
        f"[bold]{newest.run_id}[/] {newest.dataset}, {newest.family}, by {escape(newest.actor)}\n"
        f"allowed by {escape(newest.rule_id)}, policy revision {newest.policy_revision};"
        f" plan {newest.plan_sha256[:12]}, code {newest.code_version}"
    )
    for model in models:
        branch = root.add(
            f"[bold]{model.model_id[:12]}[/] {_round(model)}  accuracy {model.accuracy:.3f}"
            f"  epsilon {model.epsilon:.2f}{_doubt(model)}"
        )
        for each in model.ingredients:
            branch.add(_ingredient(each))
    if models[-1].parent_id:
        root.add(f"[dim]before it: {models[-1].parent_id[:12]}[/]")
    return root


def _doubt(model: model_pb2.Model) -> str:
    standing = standing_of(model)
    why = model.release_reason if model.released_by else model.blocked
    return f"  [red]{standing}[/]: {escape(why)}" if standing else ""


def _round(model: model_pb2.Model) -> str:
    return f"round {model.round}" if model.round else "initial model"


def _ingredient(each: model_pb2.Ingredient) -> str:
    said = f"{each.participant}, {each.examples} rows"
    if not each.update_id:
        return f"{said}, [dim]no review[/]"
    colour = "green" if each.verdict == _ACCEPTED else "yellow"
    return (
        f"{said}, [{colour}]{verdict_of(each)}[/] {each.score:.2f}"
        f"  {escape(each.update_id)} {each.update_sha256[:12]}"
    )


def drawing(models: Sequence[model_pb2.Model]) -> Drawing:
    """Returns the chain, newest on top; a bar shows whose updates a model is, by their rows."""
    newest, shown = models[0], models[:_DRAWN_MAX]
    parts = [part for at, model in enumerate(shown) for part in _row(model, _TOP + at * _STEP)]
    height = _TOP + len(shown) * _STEP + 24
    before = shown[-1].parent_id
    if before:
        parts.append(Label(_LEFT, height - 22, f"before it: {before[:12]}"))
    title = f"Model {newest.model_id[:12]}"
    words = (
        f"Round {newest.round} of {newest.run_id}: {newest.dataset}, {newest.family}; allowed by"
        f" {newest.rule_id}, policy revision {newest.policy_revision}; by {newest.actor}"
    )
    head = (Label(_LEFT, 36, title, "title", size=20), Label(_LEFT, 60, words, size=13))
    return Drawing(
        _WIDTH,
        height,
        title,
        words,
        tuple(each for each in parts if isinstance(each, Box)),
        (*head, *(each for each in parts if isinstance(each, Label))),
    )


def _row(model: model_pb2.Model, y: float) -> Iterator[Box | Label]:
    if model.parent_id:
        yield Box(_LEFT + 5, y + 12, 2, _STEP, "line")
    yield Box(_LEFT, y, 12, 12, "prevented", model.model_id)
    words = f"{model.model_id[:12]}  {_round(model)}"
    yield Label(_LEFT + 24, y + 11, words, "strong", size=13)
    figures = f"accuracy {model.accuracy:.3f}, epsilon {model.epsilon:.2f}"
    yield Label(_LEFT + 24, y + 28, figures)
    yield from _bar(model.ingredients, y)


def _bar(parts: Sequence[model_pb2.Ingredient], y: float) -> Iterator[Box | Label]:
    if not parts:
        return
    rows = sum(each.examples for each in parts) or 1
    x = float(_BAR)
    for each in parts:
        width = _BAR_WIDTH * each.examples / rows
        words = f"{each.participant}: {each.examples} rows, {verdict_of(each)}"
        yield Box(x, y, max(width - 2, 1), 14, _kind(each), f"{words} {each.update_id}".strip())
        x += width
    names = ", ".join(each.participant for each in parts[:6])
    more = f" and {len(parts) - 6} more" if len(parts) > 6 else ""
    yield Label(_BAR, y + 30, f"{names}{more}")


def _kind(each: model_pb2.Ingredient) -> Kind:
    if each.verdict == _UNREVIEWED:
        return "open"
    return "healed" if each.verdict == _ACCEPTED else "failed"
