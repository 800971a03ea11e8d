"""index.html: the verdict, why, and what it rests on, for people who have no Aegis.

One file that loads nothing and runs nothing, readable on paper. It says what evidence.json says and
no more; how to check both is its last section.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from aegis.evidence.manifest import Manifest
from aegis_server.review.evidence.captions import CAPTIONS, say
from aegis_server.review.evidence.words import Words
from aegis_server.review.findings import CORROBORATING

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none';"
    " form-action 'none'"
)
# Below this a share is read as none.
_RARE = 0.0001
_MEANS = {
    "accepted": "It may become part of the next model.",
    "rejected": "It does not become part of the next model.",
    "held": "It does not become part of a model until a person has looked at it.",
}
_VERIFY = """\
aegis update verify-evidence {update}.zip --trust trust.json
aegis update verify-evidence {update}.zip --trust trust.json --update UPDATE.safetensors
aegis audit export --out copy
aegis update verify-evidence {update}.zip --trust trust.json --audit copy"""


def page(
    evidence: Mapping[str, Any],
    *,
    about: Manifest,
    words: Words,
    pictures: Mapping[str, bytes],
    crosscheck: Mapping[str, Any],
) -> bytes:
    """Returns the page; `pictures` are those of `pictures.draw`."""
    parts = [
        *_head(evidence, about),
        *_why(evidence),
        *_changes(evidence),
        *_pictures(evidence, words, pictures),
        *_crosscheck(crosscheck, words),
        *_measured(evidence),
        *_check(about),
    ]
    return "\n".join(parts).encode() + b"\n"


def _head(evidence: Mapping[str, Any], about: Manifest) -> Iterator[str]:
    judgement, around = evidence["judgement"], evidence["round"]
    verdict = judgement["verdict"]
    style = (files(__package__) / "page.css").read_text(encoding="utf-8")
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>Evidence of {escape(about.update_id)}: {verdict}</title>"
    yield f"<style>\n{style}</style>\n</head>\n<body>\n<header>"
    yield '<p class="kind">Evidence of a review</p>'
    yield f"<h1>{escape(_title(about, verdict))}</h1>"
    yield f'<div class="verdict {verdict}"><p><strong>{verdict.capitalize()}</strong></p>'
    yield f"<p>{_MEANS[verdict]} {escape(_scored(judgement))}</p>"
    if around["fallback"]:
        yield f"<p>The round as a whole could not be judged: {escape(around['why'])}</p>"
    if around["warming_up"]:
        yield "<p>The run was in its first rounds, where less is known of what is usual.</p>"
    yield "</div>"
    yield from _list(
        ("Update", about.update_id),
        ("Run", f"{about.run_id}, round {about.round}, attempt {about.attempt}"),
        *((("Sent by", about.participant),) if about.participant else ()),
        ("Judged", f"{about.review_time:%Y-%m-%d %H:%M:%S} UTC"),
        ("Beside", f"{around['updates'] - 1} other updates of the round"),
        ("Model", f"{evidence['model']['family']}, layers {_widths(evidence)}"),
        ("Detector", judgement["detector"] or "none: the examiners' own thresholds"),
    )
    yield "<p>This is what the review decided then. A person may have decided otherwise since:"
    yield f"<code>aegis update show {escape(about.update_id)}</code> and the audit log tell.</p>"
    yield "</header>\n<main>"


def _title(about: Manifest, verdict: str) -> str:
    did = {"accepted": "accepted", "rejected": "rejected", "held": "held for a person"}[verdict]
    return f"The update of {about.participant or 'a participant'} was {did}"


def _scored(judgement: Mapping[str, Any]) -> str:
    text = f"Its score is {say(judgement['score'])}; rejection begins at 1."
    rate = judgement["false_positive_rate"]
    if rate is not None and rate < 1:
        share = f"about {rate:.2%}" if rate >= _RARE else f"fewer than {_RARE:.2%}"
        text += f" Of honest updates, {share} are expected to score as high."
    return text


def _widths(evidence: Mapping[str, Any]) -> str:
    return " → ".join(map(str, evidence["model"]["widths"]))


def _why(evidence: Mapping[str, Any]) -> Iterator[str]:
    findings = evidence["judgement"]["findings"]
    telling = [each for each in findings if (each["strength"] or 0) >= CORROBORATING]
    yield "<h2>Why</h2>"
    if not telling:
        yield "<p>No examiner found anything unusual. All they measured is in the table below.</p>"
        return
    yield '<ul class="reasons">'
    for each in telling:
        yield (
            f'<li><span class="badge {each["severity"]}">{each["severity"]}</span>'
            f"{escape(_sentence(each['text']))}"
            f'<span class="much">{escape(each["examiner"])}, {escape(each["measure"])}:'
            f" {say(each['value'])}, full weight at {say(each['threshold'])}</span></li>"
        )
    yield "</ul>"
    yield "<p>A critical finding is enough to reject an update; a warning supports others.</p>"


def _changes(evidence: Mapping[str, Any]) -> Iterator[str]:
    would = evidence["judgement"]["would_change"]
    if not would:
        return
    yield "<h2>What would have changed the verdict</h2>\n<ul>"
    yield from (f"<li>{escape(_sentence(each))}</li>" for each in would)
    yield "</ul>"


def _pictures(
    evidence: Mapping[str, Any], words: Words, pictures: Mapping[str, bytes]
) -> Iterator[str]:
    yield "<h2>What it rests on</h2>"
    yield "<p>The <em>honest reference</em> is the model after an update that the server itself"
    yield f"made of the {evidence['golden']['rows']} golden rows, which no participant has. Other"
    yield "participants are shown as numbers in ascending order, never by name.</p>"
    for name, (title, caption) in CAPTIONS.items():
        source = b64encode(pictures[f"{name}.svg"]).decode()
        text = caption(evidence, words)
        yield f"<figure><h3>{escape(title)}</h3><figcaption><p>{escape(text)}</p></figcaption>"
        yield f'<img alt="{escape(title)}" src="data:image/svg+xml;base64,{source}"></figure>'


def _crosscheck(told: Mapping[str, Any], words: Words) -> Iterator[str]:
    yield "<h2>The same question asked of another program</h2>"
    if "skipped" in told:
        yield f"<p>Not done: {escape(told['skipped'])}.</p>"
        return
    yield f"<p>The SHAP values above are computed by Aegis. The {told['explainer']} of the library"
    yield f"shap {escape(told['shap'])} explained {told['rows']} of the rows again. The two agree"
    yield f"with a cosine of {say(told['cosine'])}; 1 is full agreement.</p>"
    yield from _table(
        "Mean size of SHAP values with this update, summed over the classes",
        ("input", "Aegis#", "shap#"),
        [
            (words.feature(number), say(ours), say(theirs))
            for number, ours, theirs in zip(
                told["features"], told["ours"], told["theirs"], strict=True
            )
        ],
    )


def _measured(evidence: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>Everything that was measured</h2>"
    yield from _table(
        "Findings of the examiners, the strongest first",
        ("examiner", "measure", "value#", "full weight at#", "in words"),
        [
            (
                each["examiner"],
                each["measure"],
                say(each["value"]),
                say(each["threshold"]),
                each["text"],
            )
            for each in evidence["judgement"]["findings"]
        ],
    )
    if evidence["features"]:
        yield from _table(
            "Numbers the detector saw",
            ("number", "this update#", "median of the round#"),
            [
                (name, say(each["value"]), say(each["median"]))
                for name, each in sorted(evidence["features"].items())
            ],
        )


def _check(about: Manifest) -> Iterator[str]:
    yield "<h2>How to check this</h2>"
    yield "<p>Do not believe this page: it is only as good as the file it came in. Whoever has"
    yield "the server's public keys (<code>trust.json</code>) checks the signature and every file"
    yield "without asking anybody; with the update's bytes, that it is about those; with a copy of"
    yield "the audit log, that the verdict was recorded with this very evidence:</p>"
    yield f"<pre>{escape(_VERIFY.format(update=about.update_id))}</pre>"
    yield from _list(
        ("SHA-256 of the update", about.update_sha256.hex(), "id"),
        ("SHA-256 of evidence.json", about.evidence_sha256.hex(), "id"),
    )
    yield "<p>It shows what the server measured and signed. It does not show that the golden rows"
    yield "are good ones, that the server ran the code it should have, or that an accepted update"
    yield "is harmless.</p>\n</main>"
    yield f"<footer><p>Made {about.create_time:%Y-%m-%d %H:%M:%S} UTC. The pictures are beside"
    yield "this page as SVG and PNG, the numbers in evidence.json.</p></footer>\n</body>\n</html>"


def _list(*entries: tuple[str, ...]) -> Iterator[str]:
    yield "<dl>"
    for name, value, *kind in entries:
        shown = f'<span class="{kind[0]}">{escape(value)}</span>' if kind else escape(value)
        yield f"<dt>{escape(name)}</dt><dd>{shown}</dd>"
    yield "</dl>"


def _table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    kinds = [' class="number"' if column.endswith("#") else "" for column in columns]
    yield f"<table><caption>{escape(caption)}</caption><thead><tr>"
    for column, kind in zip(columns, kinds, strict=True):
        yield f'<th scope="col"{kind}>{escape(column.rstrip("#"))}</th>'
    yield "</tr></thead><tbody>"
    for row in rows:
        cells = [f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)]
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table>"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
