"""What a review worker is told: where rounds and blobs are, and no secret beside."""

from __future__ import annotations

from pathlib import Path

import pytest

from aegis_server.review_worker import WorkerSettings
from aegis_server.settings import SettingsError


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    key = tmp_path / "blob.key"
    key.touch()
    return {
        "AEGIS_DATABASE_URL": "postgresql://u:hunter2@h/d",
        "AEGIS_BLOBS": str(tmp_path),
        "AEGIS_BLOB_KEY": str(key),
    }


def test_worker_needs_no_key_of_a_server(environment: dict[str, str]):
    """Whoever takes its machine can judge updates, and sign nothing."""
    settings = WorkerSettings.from_environment(environment)
    assert settings.storage.blobs == Path(environment["AEGIS_BLOBS"])
    assert (settings.review.hold_default, settings.development) == ("reject", False)
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AEGIS_DATABASE_URL", ""),
        ("AEGIS_BLOBS", ""),
        ("AEGIS_BLOB_KEY", "/no/such/file"),
        ("AEGIS_REVIEW_HOLD_DEFAULT", "perhaps"),
        ("AEGIS_METRICS_LISTEN", "127.0.0.1:http"),
    ],
)
def test_wrong_setting_is_refused_by_name(environment: dict[str, str], name: str, value: str):
    """With everything else that is wrong."""
    with pytest.raises(SettingsError, match=name):
        WorkerSettings.from_environment(environment | {name: value})
