"""What every room of the control plane stands on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry

from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Database
from aegis.serving.deeds import Deeds
from aegis.serving.trusting import LiveTrust
from aegis_server.identity.buckets import Buckets, LocalBuckets, RedisBuckets
from aegis_server.identity.directory import Directory
from aegis_server.identity.machines.verification import Uses
from aegis_server.identity.openid.provider import Provider
from aegis_server.identity.openid.settings import OpenIdSettings
from aegis_server.identity.tokens import AccessTokens, TokenKeys
from aegis_server.objects.blobs import BlobStore
from aegis_server.objects.folder import Folder
from aegis_server.objects.keys import LocalKeys, Wrapping
from aegis_server.objects.places import Bucket, Place
from aegis_server.participants.authority import Authority
from aegis_server.participants.registry import Registry
from aegis_server.policy.cache import DecisionCache
from aegis_server.policy.decisions import Decisions
from aegis_server.settings import Settings, StorageSettings

Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Base:
    """What every room stands on."""

    settings: Settings
    database: Database
    audit: AuditLog
    directory: Directory
    participants: Registry
    authority: Authority | None
    access_tokens: AccessTokens | None
    key_uses: Uses
    provider: Provider | None
    buckets: Buckets
    trust: LiveTrust
    decisions: Decisions
    deeds: Deeds
    blobs: BlobStore
    clock: Clock


def utc_now() -> datetime:
    """The clock of production."""
    return datetime.now(UTC)


def cache_of(settings: Settings, registry: CollectorRegistry) -> DecisionCache | None:
    """Returns the decision cache, if there is a Redis."""
    if settings.redis_url is None:
        return None
    key = settings.cache_key.read_bytes()
    return DecisionCache(settings.redis_url, key=key, registry=registry)


def access_tokens_of(settings: Settings, clock: Clock) -> AccessTokens | None:
    """Returns what issues and verifies sessions' tokens, if there are keys for it."""
    if settings.token_keys is None:
        return None
    return AccessTokens(
        TokenKeys(settings.token_keys),
        issuer=f"aegis://{settings.trust_domain}",
        audience=settings.audience,
        clock=clock,
    )


def authority_of(settings: Settings) -> Authority | None:
    """Returns who signs for participants, if anybody does."""
    certificate, key = settings.participants_certificate, settings.participants_key
    if certificate is None or key is None:
        return None
    return Authority(certificate, key, others=settings.tls.roots)


def provider_of(settings: Settings) -> Provider | None:
    """Returns the OpenID provider whose tokens count, if there is one."""
    return Provider(OpenIdSettings.load(settings.oidc)) if settings.oidc is not None else None


def blobs_of(settings: StorageSettings) -> BlobStore:
    """Returns the store of blobs; ValueError for a key file that holds no keys."""
    return BlobStore(place_of(settings.blobs, settings), _wrapping_of(settings))


def place_of(where: Path | Bucket, settings: StorageSettings) -> Place:
    """Returns a folder, or a bucket of S3; only who uses S3 needs the extra `s3`."""
    if isinstance(where, Path):
        return Folder(where)
    from aegis_server.objects.s3 import S3

    return S3(where, endpoint=settings.s3_endpoint, kms_key=settings.s3_kms_key)


def _wrapping_of(settings: StorageSettings) -> Wrapping:
    if settings.kms_key is not None:
        from aegis_server.objects.kms import AwsKms

        return AwsKms(settings.kms_key, endpoint=settings.kms_endpoint)
    if settings.key is None:
        raise ValueError("no key wraps the keys of blobs")
    return LocalKeys(settings.key)


def buckets_of(settings: Settings, stack: AsyncExitStack) -> Buckets:
    """Returns where attempts and calls are counted."""
    if settings.redis_url is None:
        return LocalBuckets()
    buckets = RedisBuckets(settings.redis_url)
    stack.push_async_callback(buckets.close)
    return buckets
