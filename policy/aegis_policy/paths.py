"""Resources are canonical paths; rules name them by patterns of whole segments.

`*` stands for exactly one segment and `**`, only as the last, for any number of them. Casbin's own
matchers are not used: `keyMatch` ignores everything after the first `*`, `keyMatch2` accepts a
trailing newline, and `regexMatch` can be made to run for minutes.
"""

from __future__ import annotations

import unicodedata

MAX_BYTES = 512


def is_plain(resource: str) -> bool:
    """Says of most canonical paths that they are, in a quarter of a microsecond."""
    return (
        resource.isascii()
        and resource.isprintable()
        and "/." not in resource
        and "//" not in resource
        and resource[:1] == "/"
        and resource[-1] != "/"
        and len(resource) <= MAX_BYTES
    )


def fault_of_resource(resource: str) -> str:
    """Returns what keeps `resource` from being a canonical path, or an empty string."""
    if is_plain(resource):
        return ""
    if not resource.startswith("/") or resource == "/":
        return 'expected a path such as "/training/runs"'
    if resource.endswith("/"):
        return 'a path has no trailing "/"'
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in resource):
        return "a path has no control characters"
    if len(resource.encode()) > MAX_BYTES:
        return f"a path has at most {MAX_BYTES} bytes"
    if not unicodedata.is_normalized("NFC", resource):
        return "expected Unicode normal form C"
    if {"", ".", ".."}.intersection(resource.split("/")[1:]):
        return 'a path has no empty, "." or ".." segment'
    return ""


def fault_of_pattern(pattern: str) -> str:
    """Returns what keeps `pattern` from being a resource pattern, or an empty string."""
    fault = fault_of_resource(pattern)
    if fault:
        return fault
    *leading, last = pattern.split("/")[1:]
    if "**" in leading:
        return '"**" may only be the last segment'
    if any("*" in segment and segment != "*" for segment in leading) or (
        "*" in last and last not in ("*", "**")
    ):
        return '"*" stands for a whole segment, as in "/runs/*"'
    return ""


def matches(resource: str, pattern: str) -> bool:
    """Says whether a canonical resource fits a pattern; both must have passed their check."""
    asked = resource.split("/")
    wanted = pattern.split("/")
    if wanted[-1] == "**":
        wanted.pop()
        asked = asked[: len(wanted)]
    return len(asked) == len(wanted) and all(
        want in ("*", have) for have, want in zip(asked, wanted, strict=True)
    )


def overlap(one: str, other: str) -> bool:
    """Says whether some resource fits two patterns both; a resource is a pattern, too."""
    first, second = one.split("/"), other.split("/")
    for have, want in zip(first, second, strict=False):
        if "**" in (have, want):
            return True
        if have != want and "*" not in (have, want):
            return False
    if len(first) == len(second):
        return True
    shorter, longer = sorted((first, second), key=len)
    # "**" stands for nothing, too: "/a/**" and "/a" meet in "/a".
    return longer[len(shorter) :] == ["**"]
