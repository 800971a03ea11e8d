"""Guessing is slow, and nobody can be locked out by somebody else's guesses.

Every attempt costs a token before its password is looked at, and a right one gives them back. A
stranger pays from three buckets: of this account from this network, of this network, and of this
account from everywhere. Who has logged in before shows a device token and pays from a bucket of
that device alone, so whatever strangers do to the account, its owner gets in from a known device
(OWASP, "device cookies"). A device token is not a credential: it only chooses the bucket.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import logging
import secrets
import struct
from collections.abc import Callable
from datetime import datetime, timedelta

from aegis.errors import ResourceExhausted, Unavailable
from aegis_server.identity.buckets import Bucket, Buckets, rounded_up
from aegis_server.identity.people.sessions import Attempt

log = logging.getLogger(__name__)

_DEVICE = Bucket("device", rate=1 / 60, burst=10)
_ACCOUNT_AND_NETWORK = Bucket("account-and-network", rate=1 / 60, burst=8)
_NETWORK = Bucket("network", rate=1 / 5, burst=60)
_ACCOUNT = Bucket("account", rate=1 / 30, burst=60)

_DEVICE_LIFETIME = timedelta(days=180)
_BODY = struct.Struct(">16sQ")
_MAC_BYTES = 16


class AttemptThrottle:
    """Counts attempts in `buckets`; `key` makes device tokens, and is 32 bytes."""

    def __init__(self, buckets: Buckets, *, key: bytes, clock: Callable[[], datetime]) -> None:
        self._buckets = buckets
        self._key = key
        self._clock = clock

    async def before(
        self, kind: Attempt, account_key: str, caller_address: str, device_token: str
    ) -> None:
        """Pays for an attempt.

        Raises `ResourceExhausted` (RATE_LIMITED) or `Unavailable` (LIMITER_UNAVAILABLE).
        """
        for bucket, of in self._buckets_of(kind, account_key, caller_address, device_token):
            taken, wait = await self._buckets.lease(bucket, of, 1)
            if not taken:
                seconds = rounded_up(wait)
                raise ResourceExhausted(
                    "RATE_LIMITED",
                    f"too many attempts; try again in {seconds} seconds",
                    retry_seconds=seconds,
                    limit=bucket.name,
                )

    async def failed(
        self, kind: Attempt, account_key: str, caller_address: str, device_token: str
    ) -> None:
        """Keeps what was paid."""

    async def succeeded(
        self, kind: Attempt, account_key: str, caller_address: str, device_token: str
    ) -> str:
        """Gives back what was paid, but that of the network; returns the next device token."""
        for bucket, of in self._buckets_of(kind, account_key, caller_address, device_token):
            # A network with one right password may still be guessing at others.
            if bucket not in (_NETWORK, _ACCOUNT):
                await self._give_back(bucket, of)
        return self._new_device(account_key) if kind == "login" else ""

    async def _give_back(self, bucket: Bucket, of: str) -> None:
        # What was asked for is done: a bucket that stays low is no reason to take it back.
        try:
            await self._buckets.fill(bucket, of)
        except Unavailable as error:
            log.warning("a right attempt was not given back: %s", error.message)

    def _buckets_of(
        self, kind: Attempt, account_key: str, caller_address: str, device_token: str
    ) -> list[tuple[Bucket, str]]:
        network = network_of(caller_address)
        if device := self._device(account_key, device_token):
            return [(_DEVICE, f"{kind} {account_key} {device}")]
        return [
            (_ACCOUNT_AND_NETWORK, f"{kind} {account_key} {network}"),
            (_NETWORK, f"{kind} {network}"),
            (_ACCOUNT, f"{kind} {account_key}"),
        ]

    def _new_device(self, account_key: str) -> str:
        body = _BODY.pack(secrets.token_bytes(16), int(self._clock().timestamp()))
        return base64.urlsafe_b64encode(body + self._mac(account_key, body)).decode()

    def _device(self, account_key: str, token: str) -> str:
        """Returns the name of the device a token was given to for this account, or nothing."""
        try:
            raw = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
            body, mac = raw[: _BODY.size], raw[_BODY.size :]
            nonce, issued = _BODY.unpack(body)
        except (ValueError, binascii.Error, struct.error):
            return ""
        if not hmac.compare_digest(mac, self._mac(account_key, body)):
            return ""
        age = self._clock().timestamp() - issued
        return nonce.hex() if age < _DEVICE_LIFETIME.total_seconds() else ""

    def _mac(self, account_key: str, body: bytes) -> bytes:
        message = b"aegis device\0" + account_key.encode() + b"\0" + body
        return hmac.digest(self._key, message, hashlib.sha256)[:_MAC_BYTES]


def network_of(address: str) -> str:
    """Returns what one customer usually has: an IPv4 address, or the /64 of an IPv6 one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
