"""`connect()`: a channel with mTLS or a token, retries where they are safe, and sane limits."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

# UNAVAILABLE only: it is used only where nothing was done or request_id makes a repeat harmless.
_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.3s",
                    "maxBackoff": "3s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
        "retryThrottling": {"maxTokens": 20, "tokenRatio": 0.2},
    }
)

OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.service_config", _SERVICE_CONFIG),
    ("grpc.keepalive_time_ms", 60_000),
    # Sooner than the default second, so that a retry finds a server that has just come back.
    ("grpc.initial_reconnect_backoff_ms", 200),
    # gRPC would let two minutes pass between its tries.
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # A policy of 16 MiB comes back with a few words around it.
    ("grpc.max_receive_message_length", 20 * 1024 * 1024),
)


def default_home() -> Path:
    """Returns where a laptop's Aegis lives: `AEGIS_HOME`, else `~/.aegis`."""
    return Path(os.environ.get("AEGIS_HOME") or Path.home() / ".aegis")


class Proof(Protocol):
    """What a client shows to be somebody."""

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads what it needs; raises FileNotFoundError naming a missing file."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A client certificate: PEM files of the pair and of the roots the server must chain to."""

    certificate: Path
    key: Path
    roots: Path

    @classmethod
    def of(cls, name: str, home: Path | None = None) -> Identity:
        """Returns the identity `aegis up` made under that name, e.g. `admin`."""
        pki = (home or default_home()) / "pki"
        return cls(pki / f"{name}.crt", pki / f"{name}.key", pki / "ca.crt")

    def check(self) -> None:
        """Raises ValueError unless key and certificate belong together and the roots are some.

        In the middle of a rotation they do not, and nobody can use an encrypted key; OSError when
        a file is missing.
        """
        try:
            certificate = x509.load_pem_x509_certificate(self.certificate.read_bytes())
            key = load_pem_private_key(self.key.read_bytes(), password=None)
            belong = key.public_key() == certificate.public_key()
        except (TypeError, UnsupportedAlgorithm) as error:
            # Encrypted, or of a kind that nobody here can use.
            raise ValueError(f"{self.key} or {self.certificate}: {error}") from error
        if not belong:
            raise ValueError(f"{self.key} is not the key of {self.certificate}")
        x509.load_pem_x509_certificates(self.roots.read_bytes())

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files; raises FileNotFoundError naming the missing one."""
        return grpc.ssl_channel_credentials(
            root_certificates=self.roots.read_bytes(),
            private_key=self.key.read_bytes(),
            certificate_chain=self.certificate.read_bytes(),
        )


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token that goes with every call, or none where a call needs no identity, for the port
    that asks for no certificate; and PEM roots the server must chain to.
    """

    roots: Path
    token: str = field(default="", repr=False)

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the roots; raises FileNotFoundError when they are missing."""
        tls = grpc.ssl_channel_credentials(root_certificates=self.roots.read_bytes())
        if not self.token:
            return tls
        return grpc.composite_channel_credentials(
            tls, grpc.access_token_call_credentials(self.token)
        )


def connect(address: str, identity: Proof, *, retries: bool = True) -> grpc.aio.Channel:
    """Opens an asyncio channel to `host:port`, proving `identity`.

    Use it as an async context manager. With `retries` off, a call fails at its first
    UNAVAILABLE, which suits callers that keep their own record of what they asked.
    """
    options = OPTIONS if retries else (*OPTIONS, ("grpc.enable_retries", 0))
    return grpc.aio.secure_channel(address, identity.credentials(), options=options)
