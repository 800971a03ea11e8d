"""Names that a person reads as another name than the engine does.

Subjects, tenants and actions are ASCII by their syntax, so among them only case and the likes of
`l` and `1` deceive. Resources and texts in conditions may be of any script: there a letter of
another script, or one of the many forms of the same letter, makes a rule that never matches.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from aegis_policy.lint.clauses import texts
from aegis_policy.lint.survey import Binding, Finding, Rule, Survey

# Letters of other scripts by the Latin one they look like, after Unicode's confusables.txt.
_CYRILLIC = "аАВсСеЕһНіІјЈКМоОрРԛѕЅТхХуУԝԁӏ"
_CYRILLIC_LATIN = "aABcCeEhHiIjJKMoOpPqsSTxXyYwdl"
_GREEK = "αΑΒΕΖΗΙικΚΜΝνοΟΡρΤυΥΧ"
_GREEK_LATIN = "aABEZHIikKMNvoOPpTuYX"
_OTHERS = "օսհոցաꓐꓑıɑɡℓ‐‑‒–−⁄∕"
_OTHERS_LATIN = "ouhngwBPiagl-----//"
_LATIN = str.maketrans(_CYRILLIC + _GREEK + _OTHERS, _CYRILLIC_LATIN + _GREEK_LATIN + _OTHERS_LATIN)
_SAME_SHAPE = str.maketrans("1I0", "llO")
# Written together with Latin letters as a matter of course.
_EAST_ASIAN = frozenset({"CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO"})


def lookalike_findings(survey: Survey) -> Iterator[Finding]:
    """Returns names of mixed scripts, and pairs of names that look the same."""
    yield from _pairs(survey)
    segments = {segment for rule in survey.rules for segment in rule.resource.split("/") if segment}
    shapes: dict[str, str] = {}
    # Plain names first: it is the other ones that imitate.
    for segment in sorted(segments, key=lambda text: (not text.isascii(), text)):
        shapes.setdefault(_shape(segment), segment)
    for rule in survey.rules:
        if not (rule.resource.isascii() and rule.condition.isascii()):
            yield from _of_rule(rule, shapes)


def _of_rule(rule: Rule, shapes: dict[str, str]) -> Iterator[Finding]:
    for segment in rule.resource.split("/"):
        other = shapes.get(_shape(segment), segment)
        if segment.isascii():
            continue
        if other != segment:
            text = f"{_spelt(segment)} looks like {other!r}, and is another name"
            yield rule.found("warning", "look-alike", text)
        elif problem := _problem(segment):
            yield rule.found("warning", "look-alike", problem)
    for text in texts(rule.condition):
        if not text.isascii() and (problem := _problem(text)):
            yield rule.found("warning", "look-alike", problem)


def _problem(name: str) -> str:
    """Returns what is deceptive about one name, or an empty string."""
    if unicodedata.normalize("NFKC", name) != name:
        return f"{_spelt(name)} has letters in another form than they are typed in"
    mixed = _scripts(name)
    if len(mixed) > 1:
        return f"{_spelt(name)} mixes letters: {', '.join(sorted(mixed)).lower()}"
    if _shape(name).isascii():
        return f"{_spelt(name)} looks like {_shape(name)!r}, and is another name"
    return ""


def _scripts(name: str) -> set[str]:
    scripts = {
        unicodedata.name(letter, "UNKNOWN").split(" ")[0].split("-")[0]
        for letter in name
        if letter.isalpha()
    }
    if scripts & _EAST_ASIAN:
        scripts -= _EAST_ASIAN | {"LATIN"}
        scripts.add("CJK")
    return scripts


def _shape(name: str) -> str:
    """Returns the same text for names that look the same."""
    return name if name.isascii() else unicodedata.normalize("NFKC", name).translate(_LATIN)


def _pairs(survey: Survey) -> Iterator[Finding]:
    """Returns subjects and roles that differ only in case, or in `l` and `1`, `O` and `0`."""
    first: dict[str, str] = {}
    told: set[str] = set()
    lines: list[tuple[Rule | Binding, tuple[str, ...]]] = [
        *((rule, (rule.subject,)) for rule in survey.rules),
        *((binding, (binding.member, binding.role)) for binding in survey.bindings),
    ]
    for line, names in sorted(lines, key=lambda each: each[0].line):
        for name in names:
            other = first.setdefault(name.translate(_SAME_SHAPE).casefold(), name)
            if other != name and name not in told:
                told.add(name)
                text = f"{name} looks like {other}, and is another name"
                yield line.found("warning", "look-alike", text)


def _spelt(name: str) -> str:
    """Returns a name with the characters that are not ASCII named."""
    strange = sorted({f"U+{ord(letter):04X}" for letter in name if not letter.isascii()})
    more = ", …" if len(strange) > 4 else ""
    return f"{name!r} ({', '.join(strange[:4])}{more})"
