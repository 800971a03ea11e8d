"""Passwords: argon2id, on threads of their own.

One hash takes 64 MiB and some hundred milliseconds, on purpose. So only two are computed at a time,
only so many may wait, and the event loop never does. Whoever asks about an account that is not
there waits for a verification all the same.
"""

from __future__ import annotations

import asyncio
import base64
import os
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import Parameters, PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY

from aegis.errors import FieldViolation, InvalidArgument, ResourceExhausted
from aegis_server.identity.people.common import COMMON

Result = TypeVar("Result")

LENGTH_MIN = 12
# Shorter names are inside of too many words.
_NAME_LENGTH_MIN = 4

_THREADS = 2
_WAITING_MAX = 64
_RETRY_SECONDS = 2.0


class Passwords:
    """Hashes and verifies; `close()` when done."""

    def __init__(
        self, parameters: Parameters = RFC_9106_LOW_MEMORY, *, waiting_max: int = _WAITING_MAX
    ) -> None:
        self._hasher = PasswordHasher.from_parameters(parameters)
        self._nobodys = _nobodys_hash(parameters)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="passwords")
        self._waiting_max = waiting_max
        self._waiting = 0

    def close(self) -> None:
        """Ends the threads, each behind what it computes."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def hash(self, password: str) -> str:
        """Returns what is stored instead of a password."""
        return await self._compute(lambda: self._hasher.hash(_canonical(password)))

    async def verify(self, stored: str | None, password: str) -> bool:
        """Says whether a password is the one that was stored; takes as long when none was.

        Raises `ResourceExhausted` (RATE_LIMITED) when too many are being verified already.
        """
        return await self._compute(lambda: self._matches(stored, password))

    def outdated(self, stored: str) -> bool:
        """Says whether a hash has other parameters than new ones get."""
        return self._hasher.check_needs_rehash(stored)

    def _matches(self, stored: str | None, password: str) -> bool:
        try:
            self._hasher.verify(stored or self._nobodys, _canonical(password))
        except (VerificationError, InvalidHashError):
            return False
        return stored is not None

    async def _compute(self, work: Callable[[], Result]) -> Result:
        if self._waiting >= self._waiting_max:
            raise ResourceExhausted(
                "RATE_LIMITED",
                "too many passwords are being verified",
                retry_seconds=_RETRY_SECONDS,
                limit="passwords",
            )
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1


def check_strength(password: str, *, email: str, name: str, field: str = "password") -> None:
    """Raises `InvalidArgument` (PASSWORD_WEAK) naming all that is wrong with a new password."""
    plain = _canonical(password)
    faults = []
    if len(plain) < LENGTH_MIN:
        faults.append(f"has fewer than {LENGTH_MIN} characters")
    if _is_common(plain.casefold()):
        faults.append("is too common or too simple")
    if _names_owner(plain.casefold(), email, name):
        faults.append("holds your name or address")
    if faults:
        text = f"the password {' and '.join(faults)}"
        violation = FieldViolation(field, text)
        raise InvalidArgument("PASSWORD_WEAK", text, violations=[violation])


def _is_common(password: str) -> bool:
    word = password.strip("".join(c for c in set(password) if not c.isalpha()))
    # Nothing but digits is a date, a number or a row of keys; so few characters are a pattern.
    return password in COMMON or word in COMMON or not word or len(set(password)) < 5


def _names_owner(password: str, email: str, name: str) -> bool:
    local_part = email.partition("@")[0]
    names = [local_part, name, *name.split(), *local_part.replace("_", ".").split(".")]
    return any(
        len(part) >= _NAME_LENGTH_MIN and part in password
        for part in (_canonical(part).casefold() for part in names)
    )


def _canonical(password: str) -> str:
    """Returns one spelling of what may be typed in several, depending on the keyboard."""
    return unicodedata.normalize("NFKC", password)


def _nobodys_hash(parameters: Parameters) -> str:
    """Returns a well-formed hash of no password, without computing one."""

    def text(length: int) -> str:
        return base64.b64encode(os.urandom(length)).decode().rstrip("=")

    costs = f"m={parameters.memory_cost},t={parameters.time_cost},p={parameters.parallelism}"
    salt, digest = text(parameters.salt_len), text(parameters.hash_len)
    return f"$argon2id$v={parameters.version}${costs}${salt}${digest}"
