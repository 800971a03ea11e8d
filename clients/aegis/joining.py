"""Joining: how a site becomes a participant, and the folder it keeps from then on.

    DIR/site.key        the site's private key, made here; it never leaves (mode 0600)
    DIR/site.key.next   the next one, while a renewal is under way
    DIR/site.crt        its certificate: participant:NAME, for 30 days, renewed by the program
    DIR/roots.crt       whom to trust as the server; from the token, then from the server itself
    DIR/schemas/NAME.json   the schema of each data set as it was registered: what the site pins
    DIR/site.toml       the settings, yours from then on:

    [server]
    address = "aegis.example.org:8443"

    [participant]
    name = "hospital-a"
    trust_domain = "aegis.example.org"

    [privacy]                       # of each data set that says nothing else
    epsilon_limit = 12.0
    delta = 1e-05

    [data.patients]                 # as `aegis participant data add` writes it
    file = "/srv/patients.csv"      # relative to DIR, or absolute

Every step may be cut off and repeated: the key is on the disk before anybody is asked to sign for
it, and the same key gets the same certificate until the invitation ends. `site.toml` comes last,
so a folder that has one has all.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from aegis import sitekeys
from aegis.channel import Bearer, Identity, connect
from aegis.errors import AegisError, from_rpc_error
from aegis.jointoken import JoinToken
from aegis.local.keys import write_private
from aegis.local.sockets import private_directory
from aegis.spiffe import caller_of_certificate
from aegis.v1 import participant_pb2 as pb
from aegis.v1 import participant_pb2_grpc

SECONDS = 30.0
# What data sets and participants are called; also a part of paths and of settings.
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_ADDRESS = re.compile(r"[\w.:\[\]-]+:\d{1,5}", re.ASCII)
# One run of a plan's defaults costs 10.6 at this delta: one such run, and not two.
_EPSILON_LIMIT = 12.0
_DELTA = 1e-5


class SiteError(Exception):
    """The folder cannot be used so; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Site:
    """A site that has joined: its folder, and what its settings say about the server."""

    folder: Path
    address: str
    name: str
    trust_domain: str

    @classmethod
    def read(cls, folder: Path) -> Site:
        """Reads `site.toml` and finishes a renewal that was cut off; raises `SiteError`."""
        file = folder / "site.toml"
        try:
            content = tomllib.loads(file.read_text(encoding="utf-8"))
            site = cls(
                folder,
                str(content["server"]["address"]),
                str(content["participant"]["name"]),
                str(content["participant"]["trust_domain"]),
            )
        except FileNotFoundError:
            raise SiteError(
                f"{file} is missing: join first, with `aegis participant join TOKEN --dir {folder}`"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SiteError(f"{file} cannot be read: {error}") from error
        try:
            sitekeys.mend(site.identity)
        except OSError as error:
            raise SiteError(f"{site.identity.key} cannot be replaced: {error}") from error
        return site

    @property
    def identity(self) -> Identity:
        """The files that say who the site is, and whom it trusts as the server."""
        return identity_in(self.folder)

    def channel(self) -> grpc.aio.Channel:
        """Opens a channel as the participant; raises `SiteError` for files that cannot do."""
        try:
            self.identity.check()
            return connect(self.address, self.identity)
        except (OSError, ValueError) as error:
            raise SiteError(f"{error}; join again with a new token") from error


def identity_in(folder: Path) -> Identity:
    """Returns the files of a site's folder that say who it is."""
    return Identity(folder / "site.crt", folder / "site.key", folder / "roots.crt")


async def join(text: str, folder: Path) -> tuple[Site, Sequence[str]]:
    """Redeems a join token; returns the site, and the data sets it was invited for.

    Raises `SiteError` for a token or a folder that cannot be used, and the server's own refusals
    as `AegisError`.
    """
    try:
        token = JoinToken.parse(text)
    except ValueError as error:
        raise SiteError(str(error)) from error
    if (folder / "site.toml").exists():
        raise SiteError(f"{folder} has joined already; name another folder with --dir")
    private_directory(folder)
    identity = identity_in(folder)
    key = sitekeys.key_in(identity.key)
    write_private(identity.roots, token.roots, [])
    answer = await _enrol(token, key, identity)
    _check(answer, key)
    write_private(identity.certificate, answer.certificate, [])
    write_private(identity.roots, answer.roots, [])
    write_private(folder / "site.toml", _settings(answer).encode(), [])
    return Site(folder, answer.address, answer.participant, answer.trust_domain), answer.datasets


async def renew(site: Site) -> datetime:
    """Gets the next certificate, for a new key; returns when it ends.

    Raises `SiteError` and `AegisError`.
    """
    wanted = sitekeys.signing_request(sitekeys.next_key(site.identity), site.name)
    async with site.channel() as channel:
        stub = participant_pb2_grpc.ParticipantServiceStub(channel)
        request = pb.RenewCertificateRequest(signing_request=wanted)
        try:
            answer = await stub.RenewCertificate(request, timeout=SECONDS)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
    try:
        fresh = sitekeys.take_over(site.identity, answer.certificate, answer.roots)
    except ValueError as error:
        raise SiteError(str(error)) from error
    return fresh.not_valid_after_utc


async def _enrol(
    token: JoinToken, key: ec.EllipticCurvePrivateKey, identity: Identity
) -> pb.EnrolResponse:
    async with connect(token.address, Bearer(identity.roots)) as channel:
        stub = participant_pb2_grpc.ParticipantServiceStub(channel)
        request = pb.EnrolRequest(
            secret=token.secret, signing_request=sitekeys.signing_request(key, "participant")
        )
        try:
            return await stub.Enrol(request, timeout=SECONDS)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None


def _check(answer: pb.EnrolResponse, key: ec.EllipticCurvePrivateKey) -> None:
    """Raises `SiteError` for an answer whose words are no names: they become settings."""
    for name in (answer.participant, *answer.datasets):
        if not NAME.fullmatch(name):
            raise SiteError(f"the server's name {name[:64]!r} is none")
    if not _ADDRESS.fullmatch(answer.address):
        raise SiteError(f"the server's address {answer.address[:64]!r} is not host:port")
    try:
        certificate = x509.load_pem_x509_certificate(answer.certificate)
        named = caller_of_certificate(answer.certificate, answer.trust_domain).subject
        x509.load_pem_x509_certificates(answer.roots)
    except (ValueError, AegisError) as error:
        raise SiteError(f"the server's certificates cannot be used: {error}") from error
    if certificate.public_key() != key.public_key() or named != f"participant:{answer.participant}":
        raise SiteError("the server's certificate is not for this site")


def _settings(answer: pb.EnrolResponse) -> str:
    invited = "\n".join(
        f"# `aegis participant data add {name} FILE --dir .` adds your rows of {name}."
        for name in answer.datasets
    )
    return f"""\
[server]
address = {json.dumps(answer.address)}

[participant]
name = {json.dumps(answer.participant)}
trust_domain = {json.dumps(answer.trust_domain)}

# What all runs together may cost the rows of one data set; no server can spend more here.
[privacy]
epsilon_limit = {_EPSILON_LIMIT}
delta = {_DELTA}

{invited}
"""
