"""Passwords: which are taken, how they are kept, and how many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest
from argon2 import Parameters, Type

from aegis.errors import InvalidArgument, ResourceExhausted
from aegis_server.identity.people.passwords import Passwords, check_strength

CHEAP = Parameters(Type.ID, 19, salt_len=16, hash_len=32, time_cost=1, memory_cost=8, parallelism=1)
PASSWORD = "seven purple otters"


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    made = Passwords(CHEAP)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("password", "fault"),
    [
        ("", "fewer than 12"),
        ("elevenchars", "fewer than 12"),
        ("Password1234!", "too common"),
        ("qwertyuiopas", "too common"),
        ("2024-11-24-1530", "too common"),
        ("aaaaaaaaaaaaaaaa", "too common"),
        ("ababababababab", "too common"),
        ("ada.lovelace!!", "name or address"),
        ("i am LOVELACE's", "name or address"),
        ("countess-of-x-2", "name or address"),
        ("ａｄａ.lovelace!!", "name or address"),
    ],
)
def test_weak_password_is_refused_with_what_is_wrong(password: str, fault: str):
    """Too short, too common, or somebody's own name, however it is spelled."""
    with pytest.raises(InvalidArgument, match=fault) as refusal:
        check_strength(password, email="ada.lovelace@example.org", name="Countess Ada")
    assert refusal.value.reason == "PASSWORD_WEAK"
    assert [violation.field for violation in refusal.value.violations] == ["password"]


@pytest.mark.parametrize("password", [PASSWORD, "adaptable lamps 9", "смородина летом"])
def test_other_passwords_are_taken(password: str):
    """No rule of signs and digits; a short name is inside of too many words to count."""
    check_strength(password, email="ada@example.org", name="Ada")


async def test_password_is_verified_by_its_hash(passwords: Passwords):
    """Argon2id; also when another keyboard composes its letters differently."""
    stored = await passwords.hash("Zwölf Boxkämpfer")
    assert stored.startswith("$argon2id$v=19$m=8,t=1,p=1$")
    assert await passwords.verify(stored, "Zwo\u0308lf Boxka\u0308mpfer")
    assert not await passwords.verify(stored, "Zwolf Boxkampfer")
    assert not await passwords.verify("not a hash", "Zwölf Boxkämpfer")


async def test_nobodys_password_costs_a_verification_and_is_never_right(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
):
    """What is verified for an unknown account has the parameters of everybody else's."""
    verified = []
    verify = passwords._hasher.verify
    monkeypatch.setattr(
        passwords,
        "_hasher",
        type("Seen", (), {"verify": lambda self, h, p: verified.append(h) or verify(h, p)})(),
    )
    assert not await passwords.verify(None, PASSWORD)
    assert verified[0].startswith("$argon2id$v=19$m=8,t=1,p=1$")


async def test_hash_with_other_parameters_is_outdated(passwords: Passwords):
    """So that a login can bring it up to date."""
    stronger = Passwords(replace(CHEAP, time_cost=2))
    try:
        stored = await passwords.hash(PASSWORD)
        assert stronger.outdated(stored)
        assert not passwords.outdated(stored)
        assert await stronger.verify(stored, PASSWORD)
    finally:
        stronger.close()


async def test_only_so_many_wait(passwords: Passwords):
    """A flood of logins is turned away before it takes memory and threads."""
    full = Passwords(CHEAP, waiting_max=3)
    try:
        answers = await asyncio.gather(
            *(full.hash(PASSWORD) for _ in range(5)), return_exceptions=True
        )
        refused = [answer for answer in answers if isinstance(answer, ResourceExhausted)]
        assert [(r.reason, r.metadata["limit"]) for r in refused] == [
            ("RATE_LIMITED", "passwords")
        ] * 2
        assert refused[0].retry_seconds == 2.0
        await full.hash(PASSWORD)
    finally:
        full.close()
