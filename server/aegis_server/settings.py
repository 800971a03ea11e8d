"""What the control plane is told at its start: read once, checked, handed down as values."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from aegis.secretfiles import text_of
from aegis.serving.tls import TlsFiles
from aegis.serving.trusting import TrustFiles, folder_of
from aegis_server.objects.places import Bucket, parse_place

_WORKERS_MAX = 64
_ADDRESSES = (
    "AEGIS_FLOWER_LISTEN",
    "AEGIS_LISTEN",
    "AEGIS_METRICS_LISTEN",
    "AEGIS_TOKEN_LISTEN",
    "AEGIS_ADVERTISE",
    "AEGIS_TOKEN_ADVERTISE",
)
# Both waits together stay below the day that an approval may live.
_WAIT_SECONDS_MAX = 36_000


class SettingsError(ValueError):
    """A setting is missing or makes no sense; the message names the variable."""


@dataclass(frozen=True, slots=True)
class DecisionLogSettings:
    """How decisions are recorded. `strict`: none without a record, not even a denial."""

    strict: bool
    keep_attributes: bool
    retention_days: int
    capacity: int

    @classmethod
    def read(cls, environment: Mapping[str, str], missing: list[str]) -> DecisionLogSettings:
        """Reads its variables; adds those that are wrong to `missing`."""

        def number(name: str, usual: int) -> int:
            value = environment.get(name) or str(usual)
            if re.fullmatch(r"[1-9][0-9]{0,8}", value) is None:
                missing.append(f"{name} ({value!r} is no number from 1 on)")
                return usual
            return int(value)

        return cls(
            strict=_word(environment, missing, "AEGIS_DECISION_LOG", "lenient", "strict")
            == "strict",
            keep_attributes=_word(
                environment, missing, "AEGIS_DECISION_ATTRIBUTES", "digest", "keep"
            )
            == "keep",
            retention_days=number("AEGIS_DECISION_RETENTION_DAYS", 30),
            capacity=number("AEGIS_DECISION_BUFFER", 50_000),
        )


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """Where objects are, and which key wraps theirs: a file of ours, or one of AWS KMS."""

    blobs: Path | Bucket
    key: Path | None
    kms_key: str | None
    s3_endpoint: str | None
    kms_endpoint: str | None
    s3_kms_key: str | None
    # Where participants write their metrics.
    metrics: Path | Bucket | None

    @classmethod
    def read(cls, environment: Mapping[str, str], missing: list[str]) -> StorageSettings:
        """Reads its variables; adds those that are wrong to `missing`."""

        def place(name: str) -> Path | Bucket | None:
            try:
                return parse_place(environment[name]) if environment.get(name) else None
            except ValueError as error:
                missing.append(f"{name} ({error})")
                return None

        key, kms_key = environment.get("AEGIS_BLOB_KEY"), environment.get("AEGIS_BLOB_KMS_KEY")
        if bool(key) == bool(kms_key):
            missing.append("AEGIS_BLOB_KEY (exactly one of it and AEGIS_BLOB_KMS_KEY is needed)")
        if key and not Path(key).is_file():
            missing.append(f"AEGIS_BLOB_KEY (no file {key})")
        return cls(
            blobs=place("AEGIS_BLOBS") or Path(environment.get("AEGIS_DATA_DIR", "")) / "objects",
            key=Path(key) if key else None,
            kms_key=kms_key or None,
            s3_endpoint=environment.get("AEGIS_S3_ENDPOINT") or None,
            kms_endpoint=environment.get("AEGIS_KMS_ENDPOINT") or None,
            s3_kms_key=environment.get("AEGIS_S3_KMS_KEY") or None,
            metrics=place("AEGIS_METRICS"),
        )


@dataclass(frozen=True, slots=True)
class ReviewSettings:
    """Where rounds are examined, here or by workers, and what becomes of HELD updates."""

    workers: Literal["local", "queue"] = "local"
    hold_seconds: int = 86_400
    hold_default: Literal["reject", "accept"] = "reject"

    @classmethod
    def read(cls, environment: Mapping[str, str], missing: list[str]) -> ReviewSettings:
        """Reads its variables; adds those that are wrong to `missing`."""

        seconds = environment.get("AEGIS_REVIEW_HOLD_SECONDS") or "86400"
        if re.fullmatch(r"[1-9][0-9]{0,6}", seconds) is None:
            missing.append(f"AEGIS_REVIEW_HOLD_SECONDS ({seconds!r} is no number from 1 on)")
            seconds = "86400"
        accept = (
            _word(environment, missing, "AEGIS_REVIEW_HOLD_DEFAULT", "reject", "accept") == "accept"
        )
        queue = _word(environment, missing, "AEGIS_REVIEW_WORKERS", "local", "queue") == "queue"
        return cls(
            workers="queue" if queue else "local",
            hold_seconds=int(seconds),
            hold_default="accept" if accept else "reject",
        )


@dataclass(frozen=True, slots=True)
class FlowerSettings:
    """The SuperLink for sites that run Flower: where they reach it, and where its files are.

    `applications` says whether ServerApps of others are started; without it, only our own
    coordinators drive runs.
    """

    listen: str
    folder: Path
    applications: bool

    @classmethod
    def read(cls, environment: Mapping[str, str], missing: list[str]) -> FlowerSettings | None:
        """Reads its variables; None without AEGIS_FLOWER_LISTEN. Adds wrong ones to `missing`."""
        listen = environment.get("AEGIS_FLOWER_LISTEN")
        if not listen:
            return None
        folder = environment.get("AEGIS_FLOWER_DIR")
        return cls(
            listen=listen,
            folder=Path(folder or Path(environment.get("AEGIS_DATA_DIR", "")) / "superlink"),
            applications=_switch(environment, "AEGIS_FLOWER_APPLICATIONS", missing),
        )


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything `aegis-server` can be told, each from the variable named in `from_environment`.

    URLs and keys may hold secrets and are kept out of the repr.
    """

    database_url: str = field(repr=False)
    redis_url: str | None = field(repr=False)
    listen: str
    tls: TlsFiles
    trust_domain: str
    trust: TrustFiles
    decision_key: Path
    approval_key: Path
    cache_key: Path
    data_dir: Path
    executor_address: str
    executor_name: str
    audience: str
    coordinator_certificate: Path
    coordinator_key: Path
    metrics_listen: str | None
    development: bool
    ready_file: Path | None
    token_listen: str | None
    token_keys: Path | None
    oidc: Path | None
    audit_key: Path
    audit_sinks: tuple[str, ...]
    witness_address: str | None
    limits: str
    mail: str | None = field(repr=False)
    mail_password: Path | None
    policy_two_person: bool
    cache_use: Literal["auto", "redis"]
    decision_log: DecisionLogSettings
    storage: StorageSettings
    flower: FlowerSettings | None = None
    # Signs the evidence of reviews; without it none is handed out.
    evidence_key: Path | None = None
    # Who signs for participants, and how sites reach us where that is not how we are bound.
    participants_certificate: Path | None = None
    participants_key: Path | None = None
    advertise: str | None = None
    token_advertise: str | None = None
    # How long an action waits for people, and then for its issuer to sign for it again.
    approval_seconds: int = 900
    execution_seconds: int = 300
    # Processes that serve side by side; 1 is a server without a parent.
    workers: int = 1
    review: ReviewSettings = field(default_factory=ReviewSettings)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Reads the `AEGIS_*` variables; raises `SettingsError` naming all that are wrong."""
        missing: list[str] = []

        def text(name: str) -> str:
            value = environment.get(name, "")
            if not value:
                missing.append(name)
            return value

        def file(name: str) -> Path:
            path = Path(text(name))
            if name not in missing and not path.is_file():
                missing.append(f"{name} (no file {path})")
            return path

        def optional_file(name: str) -> Path | None:
            return file(name) if environment.get(name) else None

        profile = environment.get("AEGIS_PROFILE", "production")
        settings = cls(
            database_url=_secret(environment, "AEGIS_DATABASE_URL", missing) or "",
            redis_url=_secret(environment, "AEGIS_REDIS_URL", missing),
            listen=environment.get("AEGIS_LISTEN", "127.0.0.1:8443"),
            tls=TlsFiles(
                file("AEGIS_TLS_CERT"),
                file("AEGIS_TLS_KEY"),
                file("AEGIS_TLS_CA"),
                optional_file("AEGIS_TLS_CRL"),
                optional_file("AEGIS_PARTICIPANTS_CA_CERT"),
            ),
            trust_domain=environment.get("AEGIS_TRUST_DOMAIN", "aegis.local"),
            trust=TrustFiles(
                file("AEGIS_TRUST_BUNDLE"),
                optional_file("AEGIS_TRUST_ROOT"),
                folder_of(environment.get("AEGIS_SHARED_SECRETS")),
            ),
            decision_key=file("AEGIS_DECISION_KEY"),
            approval_key=file("AEGIS_APPROVAL_KEY"),
            cache_key=file("AEGIS_CACHE_KEY"),
            data_dir=Path(text("AEGIS_DATA_DIR")),
            executor_address=text("AEGIS_EXECUTOR_ADDRESS"),
            executor_name=environment.get("AEGIS_EXECUTOR_NAME", "executor:local"),
            audience=environment.get("AEGIS_AUDIENCE", "aegis"),
            coordinator_certificate=file("AEGIS_COORDINATOR_CERT"),
            coordinator_key=file("AEGIS_COORDINATOR_KEY"),
            metrics_listen=environment.get("AEGIS_METRICS_LISTEN") or None,
            development=profile == "development",
            ready_file=Path(ready) if (ready := environment.get("AEGIS_READY_FILE")) else None,
            token_listen=environment.get("AEGIS_TOKEN_LISTEN") or None,
            token_keys=optional_file("AEGIS_TOKEN_KEYS"),
            oidc=optional_file("AEGIS_OIDC"),
            audit_key=file("AEGIS_AUDIT_KEY"),
            audit_sinks=tuple(environment.get("AEGIS_AUDIT_SINKS", "").split()),
            witness_address=environment.get("AEGIS_WITNESS_ADDRESS") or None,
            limits=environment.get("AEGIS_LIMITS", ""),
            mail=environment.get("AEGIS_MAIL") or None,
            mail_password=optional_file("AEGIS_MAIL_PASSWORD_FILE"),
            cache_use=_cache_use(environment, missing),
            policy_two_person=_switch(environment, "AEGIS_POLICY_TWO_PERSON", missing),
            decision_log=DecisionLogSettings.read(environment, missing),
            storage=StorageSettings.read(environment, missing),
            flower=FlowerSettings.read(environment, missing),
            evidence_key=optional_file("AEGIS_EVIDENCE_KEY"),
            participants_certificate=optional_file("AEGIS_PARTICIPANTS_CA_CERT"),
            participants_key=optional_file("AEGIS_PARTICIPANTS_CA_KEY"),
            advertise=environment.get("AEGIS_ADVERTISE") or None,
            token_advertise=environment.get("AEGIS_TOKEN_ADVERTISE") or None,
            approval_seconds=_seconds(environment, "AEGIS_APPROVAL_SECONDS", 900, missing),
            execution_seconds=_seconds(environment, "AEGIS_EXECUTION_SECONDS", 300, missing),
            workers=_workers(environment.get("AEGIS_WORKERS", "1"), missing),
            review=ReviewSettings.read(environment, missing),
        )
        missing += [
            f"{name} ({environment[name]!r} is not host:port)"
            for name in _ADDRESSES
            if re.fullmatch(r"\S+:\d{1,5}", environment.get(name) or "host:0") is None
        ]
        missing += settings._lacks()
        if not settings.database_url:
            missing.append("AEGIS_DATABASE_URL")
        if profile not in ("development", "production"):
            missing.append(f"AEGIS_PROFILE ({profile!r} is neither development nor production)")
        if missing:
            raise SettingsError("missing or wrong settings: " + ", ".join(missing))
        return settings

    def _lacks(self) -> list[str]:
        """Returns the variables without which another one makes no sense."""
        lacking = []
        if self.token_listen is not None and self.token_keys is None:
            lacking.append("AEGIS_TOKEN_KEYS (AEGIS_TOKEN_LISTEN needs it)")
        if (self.participants_certificate is None) != (self.participants_key is None):
            lacking.append("AEGIS_PARTICIPANTS_CA_CERT and _KEY (one needs the other)")
        if self.flower is not None and self.participants_certificate is None:
            lacking.append("AEGIS_PARTICIPANTS_CA_CERT (AEGIS_FLOWER_LISTEN needs it)")
        return lacking


def _word(environment: Mapping[str, str], missing: list[str], name: str, *words: str) -> str:
    value = environment.get(name) or words[0]
    if value not in words:
        missing.append(f"{name} ({value!r} is neither {' nor '.join(words)})")
    return value


def _workers(text: str, missing: list[str]) -> int:
    count = int(text) if re.fullmatch(r"\d{1,2}", text) else 0
    if not 1 <= count <= _WORKERS_MAX:
        missing.append(f"AEGIS_WORKERS ({text!r} is no number from 1 to {_WORKERS_MAX})")
    elif count > 1 and sys.platform != "linux":
        missing.append("AEGIS_WORKERS (only Linux spreads connections over processes)")
    return count


def _seconds(environment: Mapping[str, str], name: str, usual: int, missing: list[str]) -> int:
    value = environment.get(name) or str(usual)
    if re.fullmatch(r"[1-9][0-9]{0,4}", value) is None or int(value) > _WAIT_SECONDS_MAX:
        missing.append(f"{name} ({value!r} is no number of seconds from 1 to {_WAIT_SECONDS_MAX})")
        return usual
    return int(value)


def _secret(environment: Mapping[str, str], name: str, missing: list[str]) -> str | None:
    try:
        return text_of(environment, name)
    except ValueError as error:
        missing.append(str(error))
        return None


def _switch(environment: Mapping[str, str], name: str, missing: list[str]) -> bool:
    value = environment.get(name) or "off"
    if value not in ("on", "off"):
        missing.append(f"{name} ({value!r} is neither on nor off)")
    return value == "on"


def _cache_use(environment: Mapping[str, str], missing: list[str]) -> Literal["auto", "redis"]:
    value = environment.get("AEGIS_CACHE") or "auto"
    if value not in ("auto", "redis"):
        missing.append(f"AEGIS_CACHE ({value!r} is neither auto nor redis)")
    return "redis" if value == "redis" else "auto"
