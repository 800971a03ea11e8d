"""Join tokens: what an invited site is told, in one word.

`aegis-join-` and base64url of a JSON object: where to call (`address`, the port for callers without
a certificate), whom to trust there (`roots`, certificates in base64 of DER), and the `secret` that
can be used once. Whoever reads it can take the site's place until it was used or has ended.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

PREFIX = "aegis-join-"
SECRET_BYTES = 32
_CHARACTERS_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class JoinToken:
    """An invitation as its site gets it; `roots` are PEM, and the secret stays out of the repr."""

    address: str
    roots: bytes
    secret: bytes = field(repr=False)

    def text(self) -> str:
        """Returns the token."""
        content = {
            "address": self.address,
            "roots": [
                base64.b64encode(each.public_bytes(Encoding.DER)).decode()
                for each in x509.load_pem_x509_certificates(self.roots)
            ],
            "secret": base64.b64encode(self.secret).decode(),
        }
        raw = json.dumps(content, separators=(",", ":")).encode()
        return PREFIX + base64.urlsafe_b64encode(raw).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """Reads a token; raises ValueError, without quoting it."""
        text = text.strip()
        if not text.startswith(PREFIX) or len(text) > _CHARACTERS_MAX:
            raise ValueError(f"a join token begins with {PREFIX}")
        body = text.removeprefix(PREFIX)
        try:
            raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
            content = json.loads(raw)
            address, secret = str(content["address"]), _bytes(content["secret"])
            roots = _roots(content["roots"])
        except (binascii.Error, ValueError, KeyError, TypeError, RecursionError):
            raise ValueError("this is no whole join token: copy all of it") from None
        if re.fullmatch(r"[!-~]+:\d{1,5}", address) is None or len(secret) != SECRET_BYTES:
            raise ValueError("this is no whole join token: copy all of it")
        return cls(address, roots, secret)


def _roots(listed: Sequence[str]) -> bytes:
    roots = [x509.load_der_x509_certificate(_bytes(each)) for each in listed]
    if not roots:
        raise ValueError("no roots")
    return b"".join(each.public_bytes(Encoding.PEM) for each in roots)


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
