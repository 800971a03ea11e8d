"""Words of strangers, made fit for a log, a row and a terminal."""

from __future__ import annotations

import re

# What Flower's SuperLink and SuperNodes say instead of an answer, by the code of the error.
_WITHOUT_ANSWER = {
    3: "its SuperNode did not take the message up in time",
    4: "its answer was not fetched in time",
    5: "its SuperNode was away",
    7: "its SuperNode could not install the application",
    8: "the process of its application died",
}
_KIND = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


def one_line(text: str, most: int = 200) -> str:
    """Returns the text without what cannot be seen: no new lines, no NUL, no marks that turn it."""
    seen = "".join(each if each.isprintable() else " " for each in text)
    return " ".join(seen.split())[:most]


def kind_of(text: str) -> str:
    """Returns the kind of an error that a site names: behind it may be what rows hold.

    Also of what Flower makes of an exception, "<class 'ValueError'>:<'…'>".
    """
    found = _KIND.search(text.removeprefix("<class "))
    return found.group()[:100] if found else "an error without a name"


def failure_of(code: int, text: str) -> str:
    """Returns in our words why a site has no update, by what its error says."""
    return _WITHOUT_ANSWER.get(code) or f"its training failed: {kind_of(text)}"
