"""What each picture shows, in a sentence with its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aegis_server.review.evidence.words import Words

Evidence = Mapping[str, Any]


def say(value: float | None) -> str:
    """Returns a number as people read it."""
    # Nobody reads a negative zero.
    return "not finite" if value is None else f"{value + 0.0:.3g}"


def _score(evidence: Evidence, words: Words) -> str:
    scores = list(evidence["population"]["scores"])
    own = evidence["judgement"]["score"]
    if own in scores:
        scores.remove(own)
    if not scores:
        return "It was the only update of its round, so there is nothing to compare it with."
    return (
        f"This update scores {say(own)}; the others of the round between {say(scores[0])} and"
        f" {say(scores[-1])}. What scores 1 or more is not accepted."
    )


def _bars(evidence: Evidence, words: Words) -> str:
    told = evidence["attribution"]
    return (
        "A longer bar means that the model's answers depend more on that input. An honest update"
        " leaves the two models looking at the same things. The cosine between both models' SHAP"
        f" values is {say(told['cosine'])}: 1 is the same, 0 nothing in common, below 0 the"
        " opposite."
    )


def _rows(evidence: Evidence, words: Words) -> str:
    told = evidence["probe"]
    shares = [
        sum(sum(value or 0 for value in row) > 0 for row in told[which]) / len(told["labels"])
        for which in ("reference", "update")
    ]
    return (
        f"Each dot is one of {len(told['labels'])} golden rows. To the right of the line the input"
        " speaks for the row's own class, to the left against it. All inputs shown taken together,"
        f" {shares[0]:.0%} of the rows are spoken for in the reference, and {shares[1]:.0%} with"
        " this update."
    )


def _confusion(evidence: Evidence, words: Words) -> str:
    right = {
        name: sum(row[each] for each, row in enumerate(table)) / max(1, sum(map(sum, table)))
        for name, table in evidence["confusion"].items()
    }
    return (
        f"Of {evidence['golden']['rows']} golden rows the model before the round gets"
        f" {right['base']:.0%} right, with this update alone {right['update']:.0%}, with the"
        f" round's median update {right['median']:.0%}. Right answers are on the diagonal."
    )


def _layers(evidence: Evidence, words: Words) -> str:
    times = [
        (each["norm"] / each["round"][2], each["name"])
        for each in evidence["layers"]
        if each["norm"] is not None and each["round"][2]
    ]
    if not times:
        return "The median update of the round changes nothing, so there is nothing to compare."
    most, name = max(times)
    return (
        f"How far each part of the model is moved. At most, in {name}, this update moves it"
        f" {say(most)} times as far as the round's median update."
    )


#: Title and caption of each picture, in the order of the page.
CAPTIONS: Mapping[str, tuple[str, Callable[[Evidence, Words], str]]] = {
    "score": ("Its score among those of the round", _score),
    "confusion": ("What it does to the answers on golden rows", _confusion),
    "shap-bars": ("What the model looks at", _bars),
    "shap-rows": ("What speaks for and against the right answer, row by row", _rows),
    "layers": ("How far it moves the model", _layers),
}
