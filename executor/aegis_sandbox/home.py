"""The files of a running sandbox: its own CA, kubeconfigs, and where to steer it.

Everything is made anew at each start; nothing of it is worth keeping.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aegis_sandbox.access import User

_LIFE = timedelta(days=30)


def server_context(home: Path) -> ssl.SSLContext:
    """Makes a CA and a certificate for loopback in `home`; returns the context to serve with."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority, authority_key = _certificate("Aegis sandbox CA", None)
    leaf, leaf_key = _certificate("Aegis sandbox API", (authority, authority_key))
    write_private(home / "ca.crt", authority.public_bytes(Encoding.PEM))
    write_private(home / "server.crt", leaf.public_bytes(Encoding.PEM))
    pem = leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(home / "server.key", pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(home / "server.crt", home / "server.key")
    return context


def write_kubeconfig(path: Path, *, url: str, authority: Path, user: User, namespace: str) -> None:
    """Writes a kubeconfig (JSON is YAML) that speaks for one user."""
    data = base64.b64encode(authority.read_bytes()).decode()
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "aegis-sandbox",
        "contexts": [
            {
                "name": "aegis-sandbox",
                "context": {"cluster": "aegis-sandbox", "user": user.name, "namespace": namespace},
            }
        ],
        "clusters": [
            {
                "name": "aegis-sandbox",
                "cluster": {"server": url, "certificate-authority-data": data},
            }
        ],
        "users": [{"name": user.name, "user": {"token": user.token}}],
    }
    write_private(path, json.dumps(document, indent=2).encode())


def write_private(path: Path, content: bytes) -> None:
    """Writes a file that only its owner can read, whole or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.rename(path)


def _certificate(
    name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    is_authority = issuer is None
    signing_key = key if issuer is None else issuer[1]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + _LIFE)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()),
            critical=False,
        )
        .add_extension(
            x509.KeyUsage(
                digital_signature=not is_authority,
                key_cert_sign=is_authority,
                crl_sign=is_authority,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if not is_authority:
        names = [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
    return builder.sign(signing_key, hashes.SHA256()), key
