"""`aegis keys`: whose signatures count, in a bundle that the root signs.

The commands work on files: on the machine that has the root, not on a server.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from aegis import algorithms
from aegis.algorithms import (
    ECDSA_P256,
    ED25519,
    HMAC_SHA256,
    PublicKey,
    SharedSecret,
    algorithm_of,
    load_signing_key,
)
from aegis.cli.session import (
    SECONDS,
    Output,
    OutputOption,
    channel,
    fail,
    out,
    run,
    show_json,
    show_table,
    target,
)
from aegis.local.keys import pem, write_bundle
from aegis.trust import ACTION_REQUEST, USAGES, TrustBundle, TrustedKey, load_private_key
from aegis.v1 import identity_pb2, identity_pb2_grpc

app = typer.Typer(no_args_is_help=True, help="Keys whose signatures count.")

_SUBJECT = re.compile(r"[a-z][a-z0-9-]{0,31}:[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")


class Algorithm(StrEnum):
    """What a key signs with."""

    ed25519 = ED25519
    ecdsa_p256 = ECDSA_P256
    hmac_sha256 = HMAC_SHA256


BundleOption = Annotated[
    Path | None,
    typer.Option("--bundle", help="Trust bundle; else HOME/pki/trust.json.", show_default=False),
]
RootOption = Annotated[
    Path | None,
    typer.Option("--root-key", help="Else HOME/pki/trust-root.key.", show_default=False),
]
KeyArgument = Annotated[str, typer.Argument(help="Id of the key, as `aegis keys list` shows it.")]
FileArgument = Annotated[
    Path, typer.Argument(help="Public key in PEM; of a shared secret, the secret's file.")
]
DaysOption = Annotated[int, typer.Option(min=1, max=825, help="How long the key counts.")]


@app.command("list")
def list_keys(
    bundle: Annotated[
        Path | None, typer.Option(help="Of this file; else those the server uses.")
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """List keys, and whether they count."""
    if bundle is None:
        found = run(_in_use())
        if output is Output.json:
            show_json(found)
            return
        _show("signing keys", [_row(key) for key in found])
        return
    held = _load(bundle)
    if output is Output.json:
        keys = [{"key_id": key.key_id, **key.to_json(), "state": _state(key)} for key in held.keys]
        show_json({"version": held.version, "keys": keys})
        return
    rows = [
        (key.key_id, key.owner, key.usage, key.algorithm, f"{key.not_after:%Y-%m-%d}", _state(key))
        for key in held.keys
    ]
    _show(f"trust bundle {held.version}", rows)


def _show(title: str, rows: Sequence[Sequence[str]]) -> None:
    columns = ("key", "owner", "usage", "algorithm", "until", "state")
    show_table(title, columns, rows, spare=("algorithm", "until"))


def _row(key: identity_pb2.SigningKey) -> tuple[str, ...]:
    usage = identity_pb2.KeyUsage.Name(key.usage).removeprefix("KEY_USAGE_")
    begins, ends = (each.ToDatetime(UTC) for each in (key.not_before, key.not_after))
    revoked = key.revoke_time.ToDatetime(UTC) if key.HasField("revoke_time") else None
    named = usage.lower().replace("_", "-")
    state = _state(TrustedKey(key.key_id, named, key.owner, None, begins, ends, revoked))
    return (key.key_id, key.owner, named, key.algorithm, f"{ends:%Y-%m-%d}", state)


async def _in_use() -> list[identity_pb2.SigningKey]:
    async with channel() as opened:
        stub = identity_pb2_grpc.IdentityServiceStub(opened)
        request = identity_pb2.ListSigningKeysRequest()
        return list((await stub.ListSigningKeys(request, timeout=SECONDS)).keys)


@app.command()
def generate(
    file: Annotated[Path, typer.Option("--out", help="Private key; FILE.pub gets the public one.")],
    algorithm: Annotated[Algorithm, typer.Option()] = Algorithm.ed25519,
    output: OutputOption = Output.table,
) -> None:
    """Make a key that signs; it counts once it is registered."""
    public_file = file.with_name(f"{file.name}.pub")
    for each in (file, public_file):
        if each.exists():
            fail(f"{each} is there already", "choose another --out")
    public: PublicKey
    if algorithm is Algorithm.hmac_sha256:
        public = SharedSecret(secrets.token_bytes(32))
        _write_new(file, public.secret)
    else:
        private = (
            Ed25519PrivateKey.generate()
            if algorithm is Algorithm.ed25519
            else ec.generate_private_key(ec.SECP256R1())
        )
        _write_new(file, pem(private))
        public = private.public_key()
        spki = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        public_file.write_bytes(spki)
    key_id = algorithms.key_id(public)
    _say(output, {"key_id": key_id, "file": str(file)}, f"key {key_id} is in {file}")


@app.command()
def register(
    file: FileArgument,
    owner: Annotated[str, typer.Option(help="Subject that signs, e.g. automation:autopilot.")],
    usage: Annotated[str, typer.Option(help=", ".join(USAGES))] = ACTION_REQUEST,
    days: DaysOption = 365,
    bundle: BundleOption = None,
    root_key: RootOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Let a key count, for one use, from now on."""
    if usage not in USAGES or _SUBJECT.fullmatch(owner) is None:
        fail(f"{usage!r} of {owner!r} is no use of a key", f"uses are {', '.join(USAGES)}")
    before = _signed(bundle, root_key)
    now = datetime.now(UTC)
    key = _key_of(file, usage, owner, now, now + timedelta(days=days))
    _refuse_known(before, key)
    _write(bundle, root_key, TrustBundle((*before.keys, key), before.version + 1))
    _tell(output, before.version + 1, f"key {key.key_id} counts for {usage} of {owner}", key)


@app.command()
def rotate(
    key_id: KeyArgument,
    file: FileArgument,
    overlap_hours: Annotated[
        float, typer.Option(min=0, max=24 * 90, help="How long the old key still counts.")
    ] = 24.0,
    days: DaysOption = 365,
    bundle: BundleOption = None,
    root_key: RootOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Let a new key count for the same owner and use; the old one ends after an overlap."""
    before, now = _signed(bundle, root_key), datetime.now(UTC)
    old = _known(before, key_id)
    if not old.usable(now):
        fail(f"key {key_id} is {_state(old)}", "register the new one: `aegis keys register`")
    key = _key_of(file, old.usage, old.owner, now, now + timedelta(days=days))
    _refuse_known(before, key)
    end = min(old.not_after, now + timedelta(hours=overlap_hours))
    kept = [replace(each, not_after=end) if each is old else each for each in before.keys]
    _write(bundle, root_key, TrustBundle((*kept, key), before.version + 1))
    said = f"key {key.key_id} counts now, {key_id} until {end:%Y-%m-%d %H:%M} UTC"
    _tell(output, before.version + 1, said, key)


@app.command()
def revoke(
    key_id: KeyArgument,
    bundle: BundleOption = None,
    root_key: RootOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Stop a key for good; programs that follow the bundle refuse it within two seconds."""
    before, now = _signed(bundle, root_key), datetime.now(UTC)
    old = _known(before, key_id)
    if old.revoked_at is not None and old.revoked_at <= now:
        fail(f"key {key_id} is revoked already", "see `aegis keys list`")
    key = replace(old, revoked_at=now)
    kept = tuple(key if each is old else each for each in before.keys)
    _write(bundle, root_key, TrustBundle(kept, before.version + 1))
    _tell(output, before.version + 1, f"key {key_id} counts no more", key)


@app.command()
def sign(
    bundle: BundleOption = None,
    root_key: RootOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Sign a bundle that was made or changed by hand, as the next version."""
    before = _load(bundle)
    _write(bundle, root_key, TrustBundle(before.keys, before.version + 1))
    said = f"trust bundle {before.version + 1} is signed"
    _say(output, {"version": before.version + 1}, said)


def _key_of(file: Path, usage: str, owner: str, begins: datetime, ends: datetime) -> TrustedKey:
    try:
        data = file.read_bytes()
        public = (
            load_pem_public_key(data)
            if b"-----BEGIN PUBLIC KEY-----" in data
            else load_signing_key(file)
        )
        if isinstance(public, SharedSecret) and file.stat().st_mode & 0o077:
            # Also a public key in another form than PEM, which would be everybody's secret.
            fail(f"{file} is no secret: others may read it", f"a shared secret: chmod 600 {file}")
        if not isinstance(public, PublicKey):
            fail(f"{file} holds no public key", "`aegis keys generate` writes one to FILE.pub")
        algorithm_of(public)
        return TrustedKey(algorithms.key_id(public), usage, owner, public, begins, ends)
    except (OSError, ValueError) as error:
        fail(f"{file} cannot be registered: {error}", "see `aegis keys generate --help`")


def _refuse_known(bundle: TrustBundle, key: TrustedKey) -> None:
    if any(each.key_id == key.key_id for each in bundle.keys):
        fail(f"key {key.key_id} is in the bundle already", "one key, one use: generate another")


def _known(bundle: TrustBundle, key_id: str) -> TrustedKey:
    key = next((key for key in bundle.keys if key.key_id == key_id), None)
    if key is None:
        fail(f"no key {key_id} in the bundle", "`aegis keys list` shows those there are")
    return key


def _state(key: TrustedKey) -> str:
    now = datetime.now(UTC)
    if key.revoked_at is not None and key.revoked_at <= now:
        return "revoked"
    if now < key.not_before:
        return "not yet"
    return "expired" if now >= key.not_after else "counts"


def _load(bundle: Path | None, root: Ed25519PublicKey | None = None) -> TrustBundle:
    file = _bundle(bundle)
    try:
        return TrustBundle.load(file, root=root)
    except (OSError, ValueError) as error:
        fail(f"no trust bundle: {error}", "`aegis up` makes one; or name one with --bundle")


def _signed(bundle: Path | None, root_key: Path | None) -> TrustBundle:
    # What somebody wrote into the file must not get the root's signature with the next change.
    return _load(bundle, _root(root_key).public_key())


def _root(root_key: Path | None) -> Ed25519PrivateKey:
    file = root_key or target.home / "pki" / "trust-root.key"
    try:
        return load_private_key(file)
    except (OSError, TypeError, ValueError) as error:
        fail(f"the root cannot sign: {error}", "name its private key with --root-key")


def _write(bundle: Path | None, root_key: Path | None, fresh: TrustBundle) -> None:
    root, place = _root(root_key), _bundle(bundle)
    scratch = place.with_name(f".{place.name}.check")
    scratch.write_bytes(fresh.to_json())
    try:
        # What we would not read ourselves is not given to anybody.
        TrustBundle.load(scratch)
    except ValueError as error:
        fail(str(error).replace(scratch.name, place.name), "see `aegis keys list`")
    finally:
        scratch.unlink()
    write_bundle(place, fresh, root, [])


def _bundle(bundle: Path | None) -> Path:
    return (bundle or target.home / "pki" / "trust.json").expanduser()


def _write_new(file: Path, data: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(data)


def _tell(output: Output, version: int, text: str, key: TrustedKey) -> None:
    answer = {"version": version, "key_id": key.key_id, **key.to_json()}
    _say(output, answer, f"{text}; trust bundle {version} is signed")


def _say(output: Output, answer: Mapping[str, object], text: str) -> None:
    if output is Output.json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        out.print(text, highlight=False, markup=False)
