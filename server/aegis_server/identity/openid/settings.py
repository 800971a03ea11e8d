"""Which OpenID provider counts, for what, and what its claims mean here: one JSON file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from aegis_server.identity.openid.keys import KINDS

_REQUIRED = ("issuer", "audience", "client_id")
_OPTIONAL = ("scopes", "roles_claim", "roles", "algorithms", "ca_file")
_SCOPES = ("openid",)
_ALGORITHMS = ("RS256", "ES256", "EdDSA", "Ed25519")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_ROLE = re.compile("[a-z][a-z0-9-]{0,31}")


@dataclass(frozen=True, slots=True)
class OpenIdSettings:
    """One provider.

    `audience` is what a token for us names; `client_id` and `scopes` are what people log in with;
    `roles_claim` is the path to a claim, and `roles` says what each of its values gives.
    """

    issuer: str
    audience: str
    client_id: str
    scopes: tuple[str, ...]
    roles_claim: tuple[str, ...]
    roles: Mapping[str, tuple[str, ...]]
    algorithms: tuple[str, ...]
    ca_file: Path | None

    @classmethod
    def load(cls, file: Path) -> OpenIdSettings:
        """Reads the file; raises ValueError saying which entry is wrong, or OSError."""
        try:
            found = json.loads(file.read_bytes())
        except (ValueError, RecursionError):
            raise ValueError(f"{file} is not JSON") from None
        try:
            return cls.of(found)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None

    @classmethod
    def of(cls, found: object) -> OpenIdSettings:
        """Returns the settings that a JSON object says; raises ValueError."""
        if not isinstance(found, dict):
            raise ValueError("expected an object")
        if unknown := sorted(found.keys() - {*_REQUIRED, *_OPTIONAL}):
            raise ValueError(f"unknown: {', '.join(unknown)}")
        issuer, audience, client_id = (_text(found, name) for name in _REQUIRED)
        split = urlsplit(issuer)
        if not may_be_fetched(issuer) or split.query or split.fragment:
            raise ValueError("issuer is an https URL without query; http only on this machine")
        claim = found.get("roles_claim", [])
        roles = _roles(found.get("roles", {}))
        if roles and not claim:
            raise ValueError("roles needs roles_claim")
        algorithms = _texts(found.get("algorithms", list(_ALGORITHMS)), "algorithms")
        if not algorithms or not set(algorithms) <= KINDS.keys():
            raise ValueError(f"algorithms are some of {', '.join(KINDS)}")
        ca_file = Path(_text(found, "ca_file")) if "ca_file" in found else None
        if ca_file is not None and not ca_file.is_file():
            raise ValueError(f"ca_file: no file {ca_file}")
        return cls(
            issuer=issuer,
            audience=audience,
            client_id=client_id,
            scopes=_texts(found.get("scopes", list(_SCOPES)), "scopes"),
            roles_claim=_texts([claim] if isinstance(claim, str) else claim, "roles_claim"),
            roles=roles,
            algorithms=algorithms,
            ca_file=ca_file,
        )


def may_be_fetched(url: str) -> bool:
    """Says whether a URL is https, or http on this very machine."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    if parts.username is not None or not parts.hostname:
        return False
    return parts.scheme == "https" or is_local(parts)


def is_local(url: SplitResult) -> bool:
    """Says whether a URL is http on this very machine."""
    return url.scheme == "http" and url.hostname in _LOOPBACK


def _text(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError(f"{name} is missing, or no text")
    return value


def _texts(found: object, name: str) -> tuple[str, ...]:
    if not isinstance(found, list) or not all(isinstance(each, str) and each for each in found):
        raise ValueError(f"{name} is a list of texts")
    return tuple(found)


def _roles(found: object) -> Mapping[str, tuple[str, ...]]:
    if not isinstance(found, dict):
        raise ValueError("roles is an object: what a value of the claim gives")
    roles = {value: _texts(given, f"roles of {value!r}") for value, given in found.items()}
    for value, given in roles.items():
        if not all(_ROLE.fullmatch(role) for role in given):
            raise ValueError(f"roles of {value!r}: a role is written like auditor")
    return roles
