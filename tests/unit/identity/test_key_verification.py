"""A remembered API key is looked at anew as soon as the directory says anything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

import pytest

from aegis.errors import AegisError, Unauthenticated
from aegis.spiffe import Caller
from aegis_server.identity.directory import Account, Snapshot
from aegis_server.identity.machines.keytext import KeyText, new_key
from aegis_server.identity.machines.store import StandingKey
from aegis_server.identity.machines.verification import KeyVerification

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROBOT = "service:robot"
HERE = "192.0.2.7"


class Known:
    """A directory that knows one account and its key, and counts how often it is asked."""

    def __init__(self, key: KeyText) -> None:
        standing = StandingKey(key.key_id, ROBOT, key.digest, [], NOW + timedelta(hours=1), False)
        self._version = 0
        self.looks = 0
        self.refused: AegisError | None = None
        self.say({key.key_id: standing})

    def say(self, keys: Mapping[str, StandingKey]) -> None:
        """Says something else from now on."""
        self._version += 1
        accounts = {ROBOT: Account((), disabled=False)}
        self.snapshot = Snapshot(
            self._version, NOW, MappingProxyType(accounts), frozenset(), MappingProxyType(keys)
        )

    def refusal(self, caller: Caller) -> AegisError | None:
        """As the real one; who is refused is told."""
        self.looks += 1
        return self.refused


class Uses:
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, datetime]] = []

    def note(self, key_id: str, at: datetime) -> None:
        """As the real one."""
        self.noted.append((key_id, at))


class Site:
    """A key, who verifies it, and the clock."""

    def __init__(self) -> None:
        self.now = NOW
        self.key = new_key()
        self.directory = Known(self.key)
        self.uses = Uses()
        self.verify = KeyVerification(self.directory, self.uses, clock=lambda: self.now)  # type: ignore[arg-type]

    async def refusal(self, token: str) -> str:
        """The reason why a key does not count."""
        with pytest.raises(AegisError) as caught:
            await self.verify(token, HERE)
        return caught.value.reason


@pytest.fixture
def site() -> Site:
    return Site()


async def test_key_is_verified_once_and_each_use_is_noted(site: Site) -> None:
    """From each host it calls from, which is part of who calls."""
    for address in (HERE, HERE, HERE, "198.51.100.9"):
        caller = await site.verify(site.key.text(), address)
        assert (caller.subject, caller.credential) == (ROBOT, site.key.key_id)
        assert caller.address == address
    assert site.directory.looks == 2
    assert site.uses.noted == [(site.key.key_id, NOW)] * 4


async def test_remembered_key_that_is_revoked_or_gone_counts_no_more(site: Site) -> None:
    """The next call already is refused, and is no use."""
    standing = site.directory.snapshot.api_keys[site.key.key_id]
    await site.verify(site.key.text(), HERE)
    site.directory.refused = Unauthenticated("CREDENTIAL_REVOKED", "revoked")
    site.directory.say({site.key.key_id: replace(standing, revoked=True)})
    assert await site.refusal(site.key.text()) == "CREDENTIAL_REVOKED"
    site.directory.refused = None
    site.directory.say({})
    assert await site.refusal(site.key.text()) == "TOKEN_INVALID"
    site.directory.say({site.key.key_id: replace(standing, digest=bytes(32))})
    assert await site.refusal(site.key.text()) == "TOKEN_INVALID"
    assert len(site.uses.noted) == 1


async def test_remembered_key_ends_when_it_ends(site: Site) -> None:
    """To the second, without anybody changing anything."""
    await site.verify(site.key.text(), HERE)
    site.now = NOW + timedelta(hours=1)
    assert await site.refusal(site.key.text()) == "TOKEN_EXPIRED"


async def test_what_was_refused_once_is_refused_again(site: Site) -> None:
    """Only what counts is remembered; another secret for a known key is none of its."""
    wrong = KeyText(site.key.key_id, new_key().secret).text()
    for token in (wrong, wrong, site.key.text() + "x", site.key.text().lower()):
        assert await site.refusal(token) == "TOKEN_INVALID"
    await site.verify(site.key.text(), HERE)
    assert await site.refusal(wrong) == "TOKEN_INVALID"
