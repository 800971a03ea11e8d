"""What the server is told is checked before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from aegis_server.settings import DecisionLogSettings, Settings, SettingsError

FILES = (
    "AEGIS_TLS_CERT",
    "AEGIS_TLS_KEY",
    "AEGIS_TLS_CA",
    "AEGIS_TRUST_BUNDLE",
    "AEGIS_DECISION_KEY",
    "AEGIS_APPROVAL_KEY",
    "AEGIS_CACHE_KEY",
    "AEGIS_BLOB_KEY",
    "AEGIS_COORDINATOR_CERT",
    "AEGIS_COORDINATOR_KEY",
    "AEGIS_AUDIT_KEY",
)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    file = tmp_path / "file"
    file.touch()
    return dict.fromkeys(FILES, str(file)) | {
        "AEGIS_DATABASE_URL": "postgresql://u:hunter2@h/d",
        "AEGIS_DATA_DIR": str(tmp_path),
        "AEGIS_EXECUTOR_ADDRESS": "127.0.0.1:1",
    }


def test_complete_environment_is_read_and_production_is_the_default(environment: dict[str, str]):
    """Nothing but what must be said has to be said, and reflection is off."""
    settings = Settings.from_environment(environment)
    assert (settings.listen, settings.redis_url, settings.development) == (
        "127.0.0.1:8443",
        None,
        False,
    )


def test_everything_missing_is_named_at_once():
    """One look at the message is enough to mend it."""
    with pytest.raises(SettingsError) as refusal:
        Settings.from_environment({})
    wanted = (*FILES, "AEGIS_DATABASE_URL", "AEGIS_DATA_DIR", "AEGIS_EXECUTOR_ADDRESS")
    assert [name for name in wanted if name not in str(refusal.value)] == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AEGIS_TLS_KEY", "/no/such/file"),
        ("AEGIS_LISTEN", "8443"),
        ("AEGIS_METRICS_LISTEN", "127.0.0.1:http"),
        ("AEGIS_PROFILE", "staging"),
        ("AEGIS_POLICY_TWO_PERSON", "yes"),
        ("AEGIS_TOKEN_LISTEN", "8444"),
        ("AEGIS_TOKEN_KEYS", "/no/such/file"),
        ("AEGIS_MAIL_PASSWORD_FILE", "/no/such/file"),
        ("AEGIS_DECISION_LOG", "loose"),
        ("AEGIS_DECISION_ATTRIBUTES", "yes"),
        ("AEGIS_DECISION_RETENTION_DAYS", "0"),
        ("AEGIS_REVIEW_WORKERS", "cloud"),
        ("AEGIS_REVIEW_HOLD_SECONDS", "0"),
        ("AEGIS_REVIEW_HOLD_DEFAULT", "held"),
        ("AEGIS_DECISION_BUFFER", "-1"),
        ("AEGIS_APPROVAL_SECONDS", "0"),
        ("AEGIS_APPROVAL_SECONDS", "36001"),
        ("AEGIS_EXECUTION_SECONDS", "5m"),
        ("AEGIS_BLOB_KEY", "/no/such/file"),
        ("AEGIS_BLOB_KEY", ""),
        ("AEGIS_BLOB_KMS_KEY", "alias/aegis"),
        ("AEGIS_BLOBS", "relative/folder"),
        ("AEGIS_BLOBS", "s3:///no-bucket"),
        ("AEGIS_METRICS", "https://example.com/metrics"),
        ("AEGIS_WORKERS", "0"),
        ("AEGIS_WORKERS", "many"),
        ("AEGIS_WORKERS", "65"),
    ],
)
def test_wrong_setting_is_refused_by_name(environment: dict[str, str], name: str, value: str):
    """A value that makes no sense stops the start, not the first call."""
    with pytest.raises(SettingsError, match=name):
        Settings.from_environment(environment | {name: value})


def test_decision_log_is_lenient_and_keeps_digests_for_a_month(environment: dict[str, str]):
    """Unless it is told otherwise, by each variable."""
    assert Settings.from_environment(environment).decision_log == DecisionLogSettings(
        strict=False, keep_attributes=False, retention_days=30, capacity=50_000
    )
    told = {
        "AEGIS_DECISION_LOG": "strict",
        "AEGIS_DECISION_ATTRIBUTES": "keep",
        "AEGIS_DECISION_RETENTION_DAYS": "7",
        "AEGIS_DECISION_BUFFER": "100",
    }
    assert Settings.from_environment(environment | told).decision_log == DecisionLogSettings(
        strict=True, keep_attributes=True, retention_days=7, capacity=100
    )


def test_server_is_one_process_unless_it_is_told_otherwise(environment: dict[str, str]):
    """A port is shared only by who asks for workers."""
    assert Settings.from_environment(environment).workers == 1
    assert Settings.from_environment(environment | {"AEGIS_WORKERS": "4"}).workers == 4


def test_port_for_people_needs_keys_to_sign_their_sessions(environment: dict[str, str]):
    """Nobody could log in on it."""
    with pytest.raises(SettingsError, match="AEGIS_TOKEN_KEYS"):
        Settings.from_environment(environment | {"AEGIS_TOKEN_LISTEN": "127.0.0.1:0"})


def test_secrets_are_not_in_the_repr(environment: dict[str, str]):
    """Settings can be logged."""
    assert "hunter2" not in repr(Settings.from_environment(environment))
