"""The pictures of a bundle, each as SVG and PNG.

Equal evidence gives equal bytes: what the libraries would draw at random or stamp with a time is
fixed, and the fonts are those that matplotlib brings. Needs the extra `explain`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aegis_server.review.evidence.words import Words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Evidence = Mapping[str, Any]

# Told apart by everybody, also on grey paper (Okabe and Ito 2008).
UPDATE, REFERENCE, LIMIT, INK = "#c2410c", "#64748b", "#111827", "#111827"
_SHADE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9")
_BARS = 12
# Beyond this, scores are drawn on a scale that is logarithmic above 1.
_LINEAR_MAX = 4
# Of two panels with dots, that much more makes the other one unreadable on the same scale.
_SCALES_APART = 6
# Classes whose numbers still fit into the cells.
_CELLS_MAX = 12
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.dpi": 100,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "legend.frameon": False,
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "aegis-review-evidence",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": "#4b5563",
    "ytick.color": INK,
}


def draw(evidence: Evidence, words: Words) -> dict[str, bytes]:
    """Returns the pictures by file name, e.g. `score.svg` and `score.png`."""
    import matplotlib as mpl

    drawn: dict[str, bytes] = {}
    # Whatever a site's own settings say, the pictures are the same.
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        for name, picture in _PICTURES.items():
            figure = picture(evidence, words)
            # The layout settles with the second drawing only.
            figure.draw_without_rendering()
            drawn[f"{name}.svg"] = _saved(figure, "svg", {"Date": None, "Creator": None})
            drawn[f"{name}.png"] = _saved(figure, "png", {"Software": None})
    return drawn


def _saved(figure: Figure, kind: str, metadata: Mapping[str, None]) -> bytes:
    target = BytesIO()
    figure.savefig(target, format=kind, metadata=dict(metadata), dpi=160)
    return target.getvalue()


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _score(evidence: Evidence, words: Words) -> Figure:
    """The scores of the round in ascending order, and where rejection begins."""
    scores = _numbers(evidence["population"]["scores"])
    own = _number(evidence["judgement"]["score"])
    place = min(int(np.searchsorted(scores, own)), len(scores) - 1)
    others = np.delete(np.arange(len(scores)), place)
    top = 1.3 * max(1.0, float(scores.max()))
    figure = _figure(7.2, 2.8)
    axes = figure.subplots()
    axes.axhspan(1, top, color="#fef2f2", zorder=0)
    axes.axhline(1, color=LIMIT, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    axes.text(
        *(0.01, 1, "rejection begins at 1"),
        transform=axes.get_yaxis_transform(),
        verticalalignment="bottom",
    )
    for places, values, colour, mark, size, label in (
        (others, scores[others], REFERENCE, "o", 5, "the round's other updates"),
        (np.array([place]), np.array([own]), UPDATE, "D", 8, "this update"),
    ):
        axes.vlines(places, 0, values, color=colour, linewidth=1.5, alpha=0.5)
        axes.plot(places, values, mark, color=colour, markersize=size, label=label)
    if top > _LINEAR_MAX:
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylim(0, top)
    axes.set_xlim(-0.7, len(scores) - 0.3)
    axes.set_xticks([])
    axes.set_xlabel("updates of the round, lowest score first")
    axes.set_ylabel("score")
    figure.legend(loc="outside upper right", ncols=2)
    return figure


def _bars(evidence: Evidence, words: Words) -> Figure:
    """What the model looks at: mean size of SHAP values by feature, update beside reference."""
    told = evidence["attribution"]
    features = told["features"][:_BARS]
    update, reference = (
        _numbers(told[which]).sum(axis=1)[: len(features)] for which in ("update", "reference")
    )
    figure = _figure(7.2, 0.9 + 0.36 * len(features))
    axes = figure.subplots()
    places = np.arange(len(features))
    axes.barh(places - 0.19, _shares(reference), 0.36, color=REFERENCE, label="honest reference")
    axes.barh(places + 0.19, _shares(update), 0.36, color=UPDATE, label="with this update")
    axes.set_yticks(places, [_short(words.feature(each)) for each in features])
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("share of what these inputs count for (mean size of their SHAP values)")
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper right", ncols=2)
    return figure


def _swarm(evidence: Evidence, words: Words) -> Figure:
    """One dot a probe row and feature: does it speak for the row's own class, or against it?"""
    told = evidence["probe"]
    features, labels = told["features"], np.array(told["labels"])
    panels = [_numbers(told[which]) for which in ("reference", "update")]
    reaches = [1.1 * max(float(np.quantile(np.abs(each), 0.995)), 1e-9) for each in panels]
    apart = max(reaches) > _SCALES_APART * min(reaches)
    figure = _figure(7.2, 1.2 + 0.34 * len(features))
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, values, reach, title, colour in (
        (left, panels[0], reaches[0], "honest reference", REFERENCE),
        (right, panels[1], reaches[1], "with this update", UPDATE),
    ):
        _dots(axes, values, labels, reach if apart else max(reaches))
        axes.set_title(title + apart * ", scale of its own", color=colour, fontweight="bold")
        axes.set_xlabel("← against     for its own class →")
        axes.tick_params(axis="y", length=0)
    left.set_yticks(np.arange(len(features)), [_short(words.feature(each)) for each in features])
    left.set_ylim(len(features) - 0.5, -0.5)
    _class_legend(figure, labels, words)
    return figure


def _dots(axes: Axes, values: NDArray[np.float64], labels: NDArray[np.int64], reach: float) -> None:
    axes.axvline(0, color="#9ca3af", linewidth=1, zorder=0)
    for place in range(values.shape[1]):
        column = values[:, place].clip(-reach, reach)
        aside = place + _spread(column / reach)
        for each in np.unique(labels):
            rows, colour = labels == each, _colour(int(each), int(labels.max()))
            axes.plot(column[rows], aside[rows], ".", color=colour, markersize=6, alpha=0.8)
    axes.set_xlim(-reach * 1.05, reach * 1.05)


def _confusion(evidence: Evidence, words: Words) -> Figure:
    """Golden rows by class and answer, for three models."""
    told = evidence["confusion"]
    tables = (
        (np.array(told["base"]), "before the round", INK),
        (np.array(told["update"]), "with this update alone", UPDATE),
        (np.array(told["median"]), "with the round's median", INK),
    )
    classes = len(tables[0][0])
    names = [_short(words.class_(each), 12) for each in range(classes)]
    turned = 45.0 if max(map(len, names)) > 3 else 0.0
    figure = _figure(7.2, 3.3 if turned else 2.9)
    every = figure.subplots(1, 3)
    for axes, (counts, title, colour) in zip(every, tables, strict=True):
        right = np.trace(counts) / max(counts.sum(), 1)
        axes.set_title(f"{title}\n{right:.0%} of {counts.sum()} rows right", color=colour)
        _cells(axes, counts)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xlabel("answer")
        axes.set_xticks([]), axes.set_yticks([])
        if classes <= _CELLS_MAX:
            axes.set_xticks(range(classes), names, rotation=turned)
    if classes <= _CELLS_MAX:
        every[0].set_yticks(range(classes), names)
    every[0].set_ylabel("true class")
    return figure


def _cells(axes: Axes, counts: NDArray[np.int64]) -> None:
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(counts) > _CELLS_MAX:
        return
    for (down, across), count in np.ndenumerate(counts):
        if count:
            axes.text(
                *(across, down, str(count)),
                color="white" if share[down, across] > 0.55 else INK,
                fontsize=11 if len(counts) <= 4 else 6,
                horizontalalignment="center",
                verticalalignment="center",
            )


def _layers(evidence: Evidence, words: Words) -> Figure:
    """Length of each tensor of the update, on the range of the round."""
    layers = evidence["layers"]
    places = np.arange(len(layers))
    spans = np.array([_numbers(each["round"]) for each in layers])
    own = np.array([_number(each["norm"]) for each in layers])
    figure = _figure(7.2, 1.1 + 0.34 * len(layers))
    axes = figure.subplots()
    axes.hlines(places, spans[:, 0], spans[:, 4], color="#cbd5e1", linewidth=2, label="the round")
    axes.hlines(
        *(places, spans[:, 1], spans[:, 3]), color="#94a3b8", linewidth=9, label="its middle half"
    )
    axes.plot(spans[:, 2], places, "|", color="white", markersize=9, markeredgewidth=2)
    axes.plot(own, places, "D", color=UPDATE, markersize=7, label="this update")
    if spans.min() > 0 and spans.max() > _SCALES_APART * spans.min():
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(places, [each["name"] for each in layers])
    axes.set_ylim(len(layers) - 0.5, -0.5)
    axes.set_xlabel("length (Euclidean norm) of the change")
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper right", ncols=3)
    return figure


_PICTURES: dict[str, Callable[[Evidence, Words], Figure]] = {
    "score": _score,
    "shap-bars": _bars,
    "shap-rows": _swarm,
    "confusion": _confusion,
    "layers": _layers,
}
TITLES = tuple(_PICTURES)


def _class_legend(figure: Figure, labels: NDArray[np.int64], words: Words) -> None:
    from matplotlib.lines import Line2D

    found = [int(each) for each in np.unique(labels)]
    handles = [
        Line2D(
            *([], []),
            linestyle="",
            marker="o",
            color=_colour(each, found[-1]),
            label=_short(words.class_(each), 12),
        )
        for each in found[:_CELLS_MAX]
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=6)


def _spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns how far each dot moves aside so that those of nearly one value are all seen."""
    aside = np.zeros(len(values))
    bins = np.round(values * 30).astype(int)
    for each in np.unique(bins):
        rows = np.flatnonzero(bins == each)
        offsets = (np.arange(len(rows)) + 1) // 2 * np.where(np.arange(len(rows)) % 2, 1, -1)
        aside[rows] = offsets * min(0.09, 0.38 / max(1, len(rows) // 2))
    return aside


def _colour(label: int, last: int) -> Any:
    from matplotlib import colormaps

    return _SHADE[label] if last < len(_SHADE) else colormaps["viridis"](label / last)


def _shares(values: NDArray[np.float64]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = values / (values.sum() or 1)
    return shares


def _numbers(values: Any) -> NDArray[np.float64]:
    """Returns numbers of the evidence; what is not finite there, null, counts as 0 in a picture."""
    return np.nan_to_num(np.array(values, dtype=np.float64))


def _number(value: float | None) -> float:
    return 0.0 if value is None else value


def _short(text: str, most: int = 28) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
