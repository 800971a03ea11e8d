"""An OpenID issuer for tests, as a tiny HTTP server on this machine: it serves what it is told."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl

from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from aegis_server.identity.openid.settings import OpenIdSettings

AUDIENCE = "aegis"
CLIENT = "aegis-cli"
SUBJECT = "248289761001"

_ALGORITHMS = ("RS256", "ES256", "Ed25519", "EdDSA", "PS256")


class Issuer:
    """`documents` are what each path answers with, behind what is in `first`."""

    def __init__(self) -> None:
        self.url = ""
        self.documents: dict[str, tuple[int, bytes, str]] = {}
        self.first: dict[str, list[tuple[int, bytes, str]]] = {}
        self.asked: list[str] = []
        self.posted: list[dict[str, str]] = []
        self.pause_seconds = 0.0
        self.key = ECKey.generate_key("P-256", parameters={"kid": "k1"})

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Answers on a port of its own."""
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self.describe()
        self.publish(self.key)
        async with server:
            yield

    def describe(self, **changes: object) -> None:
        """Puts the discovery document there."""
        document = {"issuer": self.url, "jwks_uri": f"{self.url}/jwks", **changes}
        self.put("/.well-known/openid-configuration", json.dumps(document).encode())

    def publish(self, *keys: Any) -> None:
        """Puts these keys, and no other, into the JWKS."""
        listed = [{**key.as_dict(private=False), "kid": key.kid, "use": "sig"} for key in keys]
        self.put("/jwks", json.dumps({"keys": listed}).encode())

    def put(self, path: str, content: bytes, *, status: int = 200, more: str = "") -> None:
        """Has a path answered with this; `more` are header lines."""
        self.documents[path] = (status, content, more)

    def queue(self, path: str, *answers: dict[str, object] | None) -> None:
        """Has a path answered with these in turn: an error is a refusal, None no answer at all."""
        self.first[path] = [
            (500, b"", "")
            if answer is None
            else (400 if "error" in answer else 200, json.dumps(answer).encode(), "")
            for answer in answers
        ]

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split()[1].decode()
            self.asked.append(path)
            if length := re.search(rb"content-length: (\d+)", head.lower()):
                body = await reader.readexactly(int(length[1]))
                self.posted.append(dict(parse_qsl(body.decode())))
            await asyncio.sleep(self.pause_seconds)
            queued = self.first.get(path)
            found = queued.pop(0) if queued else self.documents.get(path, (404, b"", ""))
            status, content, more = found
            writer.write(
                f"HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-type: application/json\r\n"
                f"{more}content-length: {len(content)}\r\n\r\n".encode()
                + content
            )
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def settings(self, **changes: object) -> OpenIdSettings:
        """Settings under which this issuer counts."""
        return OpenIdSettings.of(
            {
                "issuer": self.url,
                "audience": AUDIENCE,
                "client_id": CLIENT,
                "roles_claim": "groups",
                "roles": {"ops": ["operator", "viewer"], "audit": ["auditor"]},
                **changes,
            }
        )

    def token(
        self,
        *,
        key: RSAKey | ECKey | OKPKey | None = None,
        header: Mapping[str, object] | None = None,
        algorithm: str = "ES256",
        **claims: object,
    ) -> str:
        """A token of this issuer, but for what is changed; a claim that is None is left out."""
        key = key or self.key
        now = int(time.time())
        said = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": SUBJECT,
            "iat": now,
            "exp": now + 300,
            "groups": ["ops"],
            **claims,
        }
        head = {"alg": algorithm, "kid": key.kid, "typ": "at+jwt", **(header or {})}
        return jws.serialize_compact(
            {name: value for name, value in head.items() if value is not None},
            json.dumps({name: value for name, value in said.items() if value is not None}),
            key,
            registry=JWSRegistry(algorithms=_ALGORITHMS, strict_check_header=False),
        )
