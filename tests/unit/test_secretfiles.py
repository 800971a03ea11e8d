"""Weak, shared and readable secrets are found, and never shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from aegis.secretfiles import Severity, check, tell_weak, text_of

RANDOM = bytes(range(100, 132))
PASSWORD = "k9-Vm2xQ7_tR4zW1"


def pem(key: Ed25519PrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def kept(folder: Path, name: str, content: bytes, mode: int = 0o600) -> str:
    """A secret in a file."""
    file = folder / name
    file.write_bytes(content)
    file.chmod(mode)
    return str(file)


def codes(environment: dict[str, str]) -> list[tuple[str, str]]:
    """Which settings have which faults."""
    return [(each.code, each.setting) for each in check(environment)]


@pytest.fixture
def good(tmp_path: Path) -> dict[str, str]:
    """What a server is told, with nothing wrong."""
    return {
        "AEGIS_CACHE_KEY": kept(tmp_path, "cache", RANDOM),
        "AEGIS_AUDIT_KEY": kept(tmp_path, "audit", pem(Ed25519PrivateKey.generate())),
        "AEGIS_DECISION_KEY": kept(tmp_path, "decision", pem(Ed25519PrivateKey.generate())),
        "AEGIS_DATABASE_URL": f"postgresql://aegis:{PASSWORD}@db.example.org/aegis",
        "AEGIS_MIGRATION_URL": f"postgresql://aegis:{PASSWORD}@db.example.org/aegis",
        "AEGIS_REDIS_URL": "unix:///run/valkey.sock",
    }


def test_good_secrets_have_no_findings(good: dict[str, str]):
    """And production starts."""
    assert check(good) == []
    tell_weak(good, development=False)


@pytest.mark.parametrize(
    ("mode", "code", "severity"),
    [
        (0o604, "SECRET_WORLD_READABLE", Severity.error),
        (0o602, "SECRET_WORLD_READABLE", Severity.error),
        (0o640, "SECRET_GROUP_READABLE", Severity.warning),
    ],
)
def test_file_that_others_can_open_is_found(
    good: dict[str, str], mode: int, code: str, severity: Severity
):
    """Also behind a link: what counts is the file."""
    file = Path(good["AEGIS_AUDIT_KEY"])
    file.chmod(mode)
    link = file.with_name("link")
    link.symlink_to(file)
    (found,) = check({**good, "AEGIS_AUDIT_KEY": str(link)})
    assert (found.code, found.severity, found.setting) == (code, severity, "AEGIS_AUDIT_KEY")


def test_folder_that_everybody_can_write_is_found(good: dict[str, str], tmp_path: Path):
    """Whoever can rename files there has the secret's place; a sticky folder is not such."""
    tmp_path.chmod(0o777)
    assert {code for code, _ in codes(good)} == {"SECRET_REPLACEABLE"}
    tmp_path.chmod(0o1777)
    assert codes(good) == []


@pytest.mark.parametrize("place", ["of the link", "above"])
def test_way_that_everybody_can_change_is_found(good: dict[str, str], tmp_path: Path, place: str):
    """Who can put another link, or another folder, in its place need not write in the last one."""
    opened = tmp_path / "open"
    kept_in = opened / "kept" if place == "above" else tmp_path / "kept"
    for folder in (opened, kept_in):
        folder.mkdir(mode=0o700)
    file = kept(kept_in, "cache", bytes(range(40, 72)))
    if place == "of the link":
        link = opened / "link"
        link.symlink_to(file)
        file = str(link)
    told = {**good, "AEGIS_CACHE_KEY": file}
    assert codes(told) == []
    opened.chmod(0o777)
    assert codes(told) == [("SECRET_REPLACEABLE", "AEGIS_CACHE_KEY")]
    opened.chmod(0o1777)
    assert codes(told) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_file_of_somebody_else_is_found(good: dict[str, str]):
    """They can change it whenever they like."""
    os.chown(good["AEGIS_CACHE_KEY"], 65534, 65534)
    assert codes(good) == [("SECRET_FOREIGN_OWNER", "AEGIS_CACHE_KEY")]


@pytest.mark.parametrize(
    ("setting", "content"),
    [
        ("AEGIS_CACHE_KEY", RANDOM[:31]),
        ("AEGIS_CACHE_KEY", bytes(64)),
        ("AEGIS_MAIL_PASSWORD_FILE", b"changeme"),
        ("AEGIS_MAIL_PASSWORD_FILE", b"a" * 40),
        ("AEGIS_TLS_KEY", pem(rsa.generate_private_key(65537, 2048))),
    ],
)
def test_weak_secret_is_found(good: dict[str, str], tmp_path: Path, setting: str, content: bytes):
    """Too short, too simple, too small."""
    weak = {**good, setting: kept(tmp_path, "weak", content)}
    assert codes(weak) == [("SECRET_WEAK", setting)]


def test_weak_shared_secret_of_a_folder_is_found(good: dict[str, str], tmp_path: Path):
    """Every file of the folder is looked at."""
    folder = tmp_path / "shared"
    folder.mkdir()
    kept(folder, "0123456789abcdef", b"x" * 32)
    kept(folder, "fedcba9876543210", bytes(range(32)))
    found = check({**good, "AEGIS_SHARED_SECRETS": str(folder)})
    assert [(each.code, each.setting) for each in found] == [
        ("SECRET_WEAK", "AEGIS_SHARED_SECRETS")
    ]


def test_one_secret_under_two_names_is_found(good: dict[str, str], tmp_path: Path):
    """As the same file, as a copy, and as a password that is also one of something else."""
    key = Path(good["AEGIS_AUDIT_KEY"]).read_bytes()
    copy = kept(tmp_path, "copy", key + b"\n")
    for environment in (
        {**good, "AEGIS_DECISION_KEY": good["AEGIS_AUDIT_KEY"]},
        {**good, "AEGIS_DECISION_KEY": copy},
    ):
        assert ("SECRET_SHARED", "AEGIS_AUDIT_KEY") in codes(environment) or (
            "SECRET_SHARED",
            "AEGIS_DECISION_KEY",
        ) in codes(environment)


@pytest.mark.parametrize("password", ["postgres", "a" * 20, "short-one"])
def test_weak_password_in_a_url_is_found(good: dict[str, str], password: str):
    """Whether the URL is in the environment or in a file."""
    url = f"redis://:{password}@cache.example.org"
    assert codes({**good, "AEGIS_REDIS_URL": url}) == [("SECRET_WEAK", "AEGIS_REDIS_URL")]


def test_call_without_a_password_is_a_warning_unless_it_stays_here(good: dict[str, str]):
    """Sockets and loopback are this machine; a client certificate is a proof."""
    away = "postgresql://aegis@db.example.org/aegis"
    (found,) = check({**good, "AEGIS_DATABASE_URL": away})
    assert (found.code, found.severity) == ("SECRET_MISSING", Severity.warning)
    for here in ("postgresql:///aegis?host=/run", "postgresql://aegis@localhost/aegis"):
        assert codes({**good, "AEGIS_DATABASE_URL": here}) == []
    assert codes({**good, "AEGIS_DATABASE_URL": f"{away}?sslcert=/tls/tls.crt"}) == []


def test_file_that_is_not_there_is_found(good: dict[str, str], tmp_path: Path):
    """A typo is no secret."""
    missing = {**good, "AEGIS_AUDIT_KEY": str(tmp_path / "nowhere")}
    assert codes(missing) == [("SECRET_UNREADABLE", "AEGIS_AUDIT_KEY")]


def test_production_does_not_start_with_a_weak_secret(
    good: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Development does, and says so; neither shows the secret."""
    weak = {**good, "AEGIS_MAIL_PASSWORD_FILE": kept(tmp_path, "mail", b"hunter2")}
    tell_weak(weak, development=True)
    with pytest.raises(ValueError, match="1 secrets cannot be used in production"):
        tell_weak(weak, development=False)
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    assert "SECRET_WEAK AEGIS_MAIL_PASSWORD_FILE" in caplog.text
    assert "hunter2" not in caplog.text


def test_value_comes_from_the_environment_or_from_a_file_and_never_from_both(tmp_path: Path):
    """Both would leave open which one counts."""
    file = kept(tmp_path, "url", b"postgresql://secret\n")
    assert text_of({"URL": "x"}, "URL") == "x"
    assert text_of({"URL_FILE": file}, "URL") == "postgresql://secret"
    assert text_of({}, "URL") is None
    with pytest.raises(ValueError, match="both set"):
        text_of({"URL": "x", "URL_FILE": file}, "URL")
    with pytest.raises(ValueError, match="FileNotFoundError") as missing:
        text_of({"URL_FILE": f"{file}s"}, "URL")
    assert "secret" not in str(missing.value)
