"""The frameworks: which facts speak to which article, and what of it Aegis does not cover.

One TOML file a framework, beside this one. Titles are our own short words; nothing is quoted.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Article:
    """An article, control or subcategory.

    `shows` says how its facts speak to it, and is empty when none does; `not_covered` says what
    has to be shown by other means, and is never empty: no article is met by a log alone.
    """

    number: str
    title: str
    facts: tuple[str, ...]
    shows: str
    not_covered: str


@dataclass(frozen=True, slots=True)
class Framework:
    """A law or standard, as far as this report speaks to it."""

    id: str
    name: str
    source: str
    scope: str
    articles: tuple[Article, ...]


KNOWN = ("hipaa", "gdpr", "eu-ai-act", "nist-ai-rmf", "iso27001")


@cache
def framework(name: str) -> Framework:
    """Returns a framework of `KNOWN`; KeyError for any other."""
    if name not in KNOWN:
        raise KeyError(name)
    text = (files(__package__) / "articles" / f"{name}.toml").read_text(encoding="utf-8")
    found = tomllib.loads(text)
    articles = tuple(
        Article(
            number=each["number"],
            title=each["title"],
            facts=tuple(each.get("facts", ())),
            shows=each.get("shows", ""),
            not_covered=each["not_covered"],
        )
        for each in found["articles"]
    )
    return Framework(name, found["name"], found["source"], found["scope"], articles)
