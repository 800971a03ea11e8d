"""Secrets as programs are given them: from where, and whether they are good enough.

What a program is told are names of files and, where there is no other way, values of its
environment. `check` looks at all of them together, because one secret under two names is none.
Findings name settings and files, never a secret or a part of one.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

log = logging.getLogger(__name__)

FILES = (
    "AEGIS_TLS_KEY",
    "AEGIS_DECISION_KEY",
    "AEGIS_APPROVAL_KEY",
    "AEGIS_EVIDENCE_KEY",
    "AEGIS_AUDIT_KEY",
    "AEGIS_WITNESS_KEY",
    "AEGIS_COORDINATOR_KEY",
    "AEGIS_PARTICIPANTS_CA_KEY",
    "AEGIS_TOKEN_KEYS",
    "AEGIS_CACHE_KEY",
    "AEGIS_BLOB_KEY",
    "AEGIS_MAIL_PASSWORD_FILE",
    "AEGIS_KUBECONFIG",
    "AEGIS_API_KEY_FILE",
)
FOLDERS = ("AEGIS_SHARED_SECRETS",)
URLS = (
    "AEGIS_DATABASE_URL",
    "AEGIS_MIGRATION_URL",
    "AEGIS_EXECUTOR_DATABASE_URL",
    "AEGIS_EXECUTOR_MIGRATION_URL",
    "AEGIS_REDIS_URL",
)
_RANDOM_BYTES = ("AEGIS_CACHE_KEY", "AEGIS_BLOB_KEY", "AEGIS_SHARED_SECRETS")
_PASSWORDS = ("AEGIS_MAIL_PASSWORD_FILE",)

_BYTES_MIN = 32
_DISTINCT_MIN = 12
_PASSWORD_MIN = 16
_RSA_BITS_MIN = 3072
_EC_BITS_MIN = 256
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Severity(StrEnum):
    """Whether a program in production starts all the same."""

    error = "error"
    warning = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a secret, and what to do about it."""

    code: str
    severity: Severity
    setting: str
    problem: str
    next_step: str


@dataclass(frozen=True, slots=True)
class _Secret:
    setting: str
    content: bytes
    file: Path | None = None


def text_of(environment: Mapping[str, str], name: str) -> str | None:
    """Returns a value from the environment, or from the file that NAME_FILE names, or None.

    Raises ValueError when both are set or the file cannot be read.
    """
    value, file = environment.get(name), environment.get(f"{name}_FILE")
    if value and file:
        raise ValueError(f"{name} and {name}_FILE are both set: keep one")
    if not file:
        return value or None
    try:
        return Path(file).read_text().strip() or None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{name}_FILE: {file} cannot be read: {type(error).__name__}") from None


def check(environment: Mapping[str, str]) -> list[Finding]:
    """Returns what is wrong with the secrets an environment names, the errors first."""
    found: list[Finding] = []
    secrets: list[_Secret] = []
    for setting, file in _named_files(environment):
        found += _of_place(setting, file)
        try:
            secrets.append(_Secret(setting, file.read_bytes(), file))
        except OSError as error:
            problem = f"{file} cannot be read: {type(error).__name__}"
            found.append(_error("SECRET_UNREADABLE", setting, problem, "check path and owner"))
    for secret in secrets:
        found += _of_content(secret)
    for setting in URLS:
        found += _of_url(environment, setting, secrets)
    found += _shared(secrets)
    return sorted(found, key=lambda finding: (finding.severity, finding.setting, finding.code))


def tell_weak(environment: Mapping[str, str], *, development: bool) -> None:
    """Logs the findings; raises ValueError after an error, unless this is for development."""
    errors = 0
    for each in check(environment):
        level = logging.WARNING
        if each.severity is Severity.error and not development:
            errors, level = errors + 1, logging.ERROR
        log.log(level, "%s %s: %s; %s", each.code, each.setting, each.problem, each.next_step)
    if errors:
        raise ValueError(f"{errors} secrets cannot be used in production, see above")


def _named_files(environment: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    for setting in (*FILES, *(f"{name}_FILE" for name in URLS)):
        if name := environment.get(setting):
            yield setting, Path(name)
    for setting in FOLDERS:
        if (name := environment.get(setting)) and Path(name).is_dir():
            for file in sorted(Path(name).iterdir()):
                yield setting, file


def _of_place(setting: str, file: Path) -> Iterator[Finding]:
    try:
        real = file.resolve(strict=True)
        # Also the way of a link, and the folders above: each may be put in another's place.
        above = dict.fromkeys((*real.parents, *file.absolute().parents))
        found, folders = real.stat(), {folder: folder.stat().st_mode for folder in above}
    except OSError:
        return  # whoever reads it says so
    if found.st_mode & 0o007:
        yield _error(
            "SECRET_WORLD_READABLE", setting, f"everybody can open {file}", f"chmod 600 {file}"
        )
    elif found.st_mode & 0o070:
        yield Finding(
            "SECRET_GROUP_READABLE",
            Severity.warning,
            setting,
            f"the group of {file} can open it",
            f"chmod 600 {file}, unless the group is this program alone",
        )
    if found.st_uid not in (0, os.geteuid()):
        problem = f"{file} belongs to somebody else, user {found.st_uid}"
        yield _error("SECRET_FOREIGN_OWNER", setting, problem, "chown it to who runs the program")
    for folder, mode in folders.items():
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            problem = f"everybody can replace {file}: {folder} is writable"
            yield _error("SECRET_REPLACEABLE", setting, problem, f"chmod o-w {folder}")
            break


def _of_content(secret: _Secret) -> Iterator[Finding]:
    where = secret.file
    if secret.setting in _RANDOM_BYTES:
        if len(secret.content) < _BYTES_MIN or len(set(secret.content)) < _DISTINCT_MIN:
            problem = f"{where} holds no {_BYTES_MIN} random bytes"
            make = f"head -c {_BYTES_MIN} /dev/urandom > {where}"
            yield _error("SECRET_WEAK", secret.setting, problem, make)
    elif secret.setting in _PASSWORDS:
        yield from _of_password(secret.setting, secret.content.decode(errors="replace").strip())
    elif secret.content.startswith(b"-----BEGIN "):
        yield from _of_key(secret)


def _of_key(secret: _Secret) -> Iterator[Finding]:
    try:
        key = load_pem_private_key(secret.content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return  # whoever uses it says so
    weak = (isinstance(key, rsa.RSAPrivateKey) and key.key_size < _RSA_BITS_MIN) or (
        isinstance(key, ec.EllipticCurvePrivateKey) and key.key_size < _EC_BITS_MIN
    )
    if weak:
        problem = f"{secret.file} is a key of a size that is too small"
        yield _error("SECRET_WEAK", secret.setting, problem, "make an ECDSA P-256 or Ed25519 key")


def _of_url(
    environment: Mapping[str, str], setting: str, secrets: list[_Secret]
) -> Iterator[Finding]:
    try:
        text = text_of(environment, setting)
        parts = urlsplit(text or "")
        password = unquote(parts.password or "")
    except ValueError:
        problem = "cannot be read as a URL, or is set twice"
        yield _error("SECRET_UNREADABLE", setting, problem, "see the settings of the program")
        return
    if password:
        yield from _of_password(setting, password)
        secrets.append(_Secret(setting, f"{parts.username}:{password}".encode()))
    elif text and not _is_here(parts) and "sslcert" not in parts.query:
        yield Finding(
            "SECRET_MISSING",
            Severity.warning,
            setting,
            "another machine is called without a password",
            "give the account a password, or a client certificate",
        )


def _of_password(setting: str, password: str) -> Iterator[Finding]:
    if len(password) < _PASSWORD_MIN or len(set(password)) < _DISTINCT_MIN // 2:
        problem = f"the password is shorter than {_PASSWORD_MIN} characters, or repeats itself"
        yield _error("SECRET_WEAK", setting, problem, "make one: openssl rand -base64 24")


def _is_here(url: SplitResult) -> bool:
    return not url.hostname or url.hostname in _LOOPBACK or url.scheme == "unix"


def _shared(secrets: list[_Secret]) -> Iterator[Finding]:
    first: dict[bytes, _Secret] = {}
    for secret in secrets:
        known = first.setdefault(hashlib.sha256(secret.content.strip()).digest(), secret)
        # Owner and program of a database may be one account.
        if known is secret or {known.setting, secret.setting} <= set(URLS):
            continue
        if known.file is not None and secret.file is not None and known.file == secret.file:
            problem = f"is the same file as {known.setting}"
        else:
            problem = f"is the same secret as {known.setting}"
        yield _error("SECRET_SHARED", secret.setting, problem, "make one for each use")


def _error(code: str, setting: str, problem: str, next_step: str) -> Finding:
    return Finding(code, Severity.error, setting, problem, next_step)
