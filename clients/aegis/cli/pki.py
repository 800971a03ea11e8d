"""`aegis pki`: a small certificate authority, see `aegis.local.authority`."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography import x509

from aegis.cli.session import Output, OutputOption, err, fail, out, show_json, show_table, target
from aegis.local.authority import AUTHORITY_DAYS, CERTIFICATE_DAYS, Authority, Names
from aegis.local.pki import PARTICIPANTS
from aegis.local.sockets import private_directory
from aegis.spiffe import spiffe_id

app = typer.Typer(no_args_is_help=True, help="Certificates of a small site.")

FolderOption = Annotated[
    Path | None,
    typer.Option("--dir", help="Folder of the authority; else HOME/pki.", show_default=False),
]


_OF_PARTICIPANTS = "authority of participants"
_EARLIER = "of an earlier authority"
# What a list of ours cannot end, and what does.
_NOT_OURS = {
    _EARLIER: "`aegis pki rotate --retire` ends it",
    "authority": "`aegis pki rotate --authority` replaces it",
    _OF_PARTICIPANTS: "`aegis participant revoke` ends a participation",
}


@dataclass(frozen=True)
class _Listed:
    name: str
    certificate: x509.Certificate
    state: str

    def plain(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "spiffe_id": _spiffe_id(self.certificate),
            "serial": f"{self.certificate.serial_number:x}",
            "not_before": self.certificate.not_valid_before_utc.isoformat(),
            "not_after": self.certificate.not_valid_after_utc.isoformat(),
            "state": self.state,
        }


@app.command()
def init(
    folder: FolderOption = None,
    days: Annotated[int, typer.Option(min=1, max=3650)] = AUTHORITY_DAYS,
    output: OutputOption = Output.table,
) -> None:
    """Make an authority: ca.key, ca.crt and an empty revocation list."""
    place = _folder(folder)
    if (place / "ca.crt").exists() or (place / "ca.key").exists():
        fail(f"there is an authority in {place}", "`aegis pki rotate --authority` replaces it")
    private_directory(place)
    written: list[str] = []
    authority = Authority.create(place, _now(), written, days=days)
    authority.ensure_list(_now(), written)
    _say(place, written, output)


@app.command()
def issue(
    subject: Annotated[str, typer.Argument(help="e.g. server:aegis or automation:nightly")],
    name: Annotated[
        str | None, typer.Option(help="File name; else the subject's last part.")
    ] = None,
    dns: Annotated[
        list[str] | None, typer.Option(help="Host name it is reached by; repeatable.")
    ] = None,
    ip: Annotated[
        list[str] | None, typer.Option(help="Address it is reached by; repeatable.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=825)] = CERTIFICATE_DAYS,
    trust_domain: Annotated[str, typer.Option()] = "aegis.local",
    folder: FolderOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Issue a certificate with one SPIFFE id: NAME.crt and NAME.key."""
    authority = _authority(folder)
    file = _checked(name or subject.partition(":")[2])
    if (authority.folder / f"{file}.crt").exists():
        fail(f"there is a {file}.crt", f"`aegis pki rotate {file}` renews it; or choose a --name")
    try:
        names = Names(
            spiffe_id(subject, trust_domain),
            dns or [],
            [str(ipaddress.ip_address(each)) for each in ip or []],
        )
        written: list[str] = []
        authority.issue(file, names, _now(), written, days=days)
    except ValueError as error:
        fail(str(error), "see `aegis pki issue --help`")
    _say(authority.folder, written, output)


@app.command()
def rotate(
    name: Annotated[str | None, typer.Argument(help="NAME of NAME.crt in the folder.")] = None,
    of_authority: Annotated[
        bool, typer.Option("--authority", help="A new authority; the old root counts beside it.")
    ] = False,
    retire: Annotated[
        bool, typer.Option("--retire", help="The roots before the newest count no more.")
    ] = False,
    folder: FolderOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Renew a certificate with a new key and the same names; or replace the authority."""
    if [name is not None, of_authority, retire].count(True) != 1:
        fail("name a certificate, or --authority, or --retire", "see `aegis pki rotate --help`")
    authority, written = _authority(folder), list[str]()
    if of_authority:
        authority.succeed(_now(), written)
    elif retire:
        left = [each.name for each in _listed(authority) if each.state == _EARLIER]
        if left:
            fail(f"still of an earlier authority: {', '.join(left)}", "rotate those first")
        authority.retire_predecessors(_now(), written)
    else:
        file = _checked(name or "")
        old = _certificate(authority, file)
        life = old.not_valid_after_utc - old.not_valid_before_utc
        try:
            names = Names.of(old)
        except (ValueError, x509.ExtensionNotFound) as error:
            fail(f"{file}.crt: {error}", "issue a new one with `aegis pki issue`")
        authority.issue(file, names, _now(), written, days=max(1, life.days))
    _say(authority.folder, written, output)
    if of_authority and output is Output.table:
        err.print(
            "  next: give ca.crt and ca.crl to everybody, `aegis pki rotate NAME` each certificate,"
            " then `aegis pki rotate --retire`",
            highlight=False,
        )


@app.command()
def revoke(
    which: Annotated[str, typer.Argument(help="NAME of NAME.crt, or a serial number as shown.")],
    folder: FolderOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Revoke a certificate; whoever follows ca.crl refuses it within two seconds."""
    authority, written = _authority(folder), list[str]()
    if (authority.folder / f"{which}.crt").exists():
        certificate = _certificate(authority, _checked(which))
        if not authority.has_issued(certificate):
            fail(f"{which}.crt is not of this authority", _NOT_OURS[_EARLIER])
        serial = certificate.serial_number
    elif re.fullmatch("[0-9a-f]{8,40}", which):
        serial = int(which, 16)
        for each in _listed(authority):
            if each.certificate.serial_number == serial and each.state in _NOT_OURS:
                fail(f"{each.name}.crt is not of this authority", _NOT_OURS[each.state])
    else:
        fail(f"no {which}.crt in {authority.folder}", "`aegis pki show` lists what there is")
    authority.revoke(serial, _now(), written)
    _say(authority.folder, written, output)


@app.command()
def show(folder: FolderOption = None, output: OutputOption = Output.table) -> None:
    """List the certificates of the folder, and whether they count."""
    authority = _authority(folder)
    found = _listed(authority)
    revoked = [f"{each.serial_number:x}" for each in authority.revoked()]
    if output is Output.json:
        show_json({"certificates": [each.plain() for each in found], "revoked": revoked})
        return
    now = _now()
    rows = [
        (
            each.name,
            _spiffe_id(each.certificate),
            f"{each.certificate.serial_number:x}",
            f"{each.certificate.not_valid_after_utc:%Y-%m-%d}",
            (each.certificate.not_valid_after_utc - now).days,
            each.state,
        )
        for each in found
    ]
    columns = ("name", "spiffe id", "serial", "until", "days left", "state")
    show_table(f"certificates in {authority.folder}", columns, rows, spare=("serial", "until"))
    if revoked:
        out.print(f"revoked: {', '.join(revoked)}", highlight=False)


def _listed(authority: Authority) -> list[_Listed]:
    revoked = {each.serial_number for each in authority.revoked()}
    found = []
    for file in sorted(authority.folder.glob("*.crt")):
        certificate = _certificate(authority, file.stem)
        found.append(
            _Listed(file.stem, certificate, _state(authority, file.stem, certificate, revoked))
        )
    return found


def _state(
    authority: Authority, name: str, certificate: x509.Certificate, revoked: set[int]
) -> str:
    if certificate == authority.certificate:
        return "authority"
    if not authority.has_issued(certificate):
        return _EARLIER
    if certificate.serial_number in revoked:
        return "revoked"
    now = _now()
    if now >= certificate.not_valid_after_utc:
        return "expired"
    return "good" if now >= certificate.not_valid_before_utc else "not yet"


def _spiffe_id(certificate: x509.Certificate) -> str:
    try:
        return Names.of(certificate).spiffe_id
    except (ValueError, x509.ExtensionNotFound):
        return ""


def _certificate(authority: Authority, name: str) -> x509.Certificate:
    file = authority.folder / f"{name}.crt"
    try:
        return x509.load_pem_x509_certificate(file.read_bytes())
    except FileNotFoundError:
        fail(f"no {file}", "`aegis pki show` lists what there is")
    except ValueError:
        fail(f"{file} is no certificate", "issue a new one with `aegis pki issue`")


def _authority(folder: Path | None) -> Authority:
    place = _folder(folder)
    found = Authority.open(place)
    if found is None:
        fail(f"no authority that can sign in {place}", "make one: `aegis pki init --dir FOLDER`")
    return found


def _folder(folder: Path | None) -> Path:
    return (folder or target.home / "pki").expanduser()


def _checked(name: str) -> str:
    if re.fullmatch("[A-Za-z0-9][A-Za-z0-9._@-]{0,127}", name) is None or name in (
        "ca",
        PARTICIPANTS,
    ):
        fail(f"{name!r} is no name of a certificate here", "choose another with --name")
    return name


def _say(folder: Path, written: list[str], output: Output) -> None:
    if output is Output.json:
        show_json({"folder": str(folder), "written": written})
    else:
        out.print(f"wrote {', '.join(written)} in {folder}", highlight=False, markup=False)


def _now() -> datetime:
    return datetime.now(UTC)
