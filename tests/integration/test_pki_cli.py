"""`aegis pki`: what a small site does with its authority."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from tests.commands import invoke

from aegis.local.authority import Names
from aegis.serving.revocation import read
from aegis.spiffe import certificate_id


class Pki:
    """The commands on one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: str, exit_code: int = 0) -> str:
        """Runs a command; returns all it printed."""
        result = invoke(["pki", *arguments, "--dir", str(self.folder)])
        assert result.exit_code == exit_code, result.output
        return result.output

    def states(self) -> dict[str, str]:
        """Every certificate and whether it counts."""
        shown: Any = json.loads(self("show", "--output", "json"))
        return {each["name"]: each["state"] for each in shown["certificates"]}

    def certificate(self, name: str) -> x509.Certificate:
        """Reads a certificate."""
        return x509.load_pem_x509_certificate((self.folder / f"{name}.crt").read_bytes())

    def revoked(self) -> frozenset[str]:
        """What a server takes from the list."""
        return read(self.folder / "ca.crl", self.folder / "ca.crt")


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    made = Pki(tmp_path / "pki")
    made("init")
    made("issue", "participant:hospital-a", "--dns", "a.example.org", "--ip", "10.0.0.1")
    return made


def test_issued_certificate_says_who_it_is_and_where(pki: Pki):
    """And is shown with the state it is in."""
    names = Names.of(pki.certificate("hospital-a"))
    assert names.spiffe_id == "spiffe://aegis.local/participant/hospital-a"
    assert (list(names.dns), list(names.addresses)) == (["a.example.org"], ["10.0.0.1"])
    assert pki.states() == {"ca": "authority", "hospital-a": "good"}
    assert "hospital-a" in pki("show")


def test_rotation_keeps_the_names_and_changes_the_key(pki: Pki):
    """The old one goes on counting until it ends or is revoked."""
    before = pki.certificate("hospital-a")
    pki("rotate", "hospital-a")
    after = pki.certificate("hospital-a")
    assert Names.of(after) == Names.of(before)
    assert after.public_key() != before.public_key()
    assert pki.revoked() == frozenset()


def test_revoked_certificates_are_what_servers_refuse(pki: Pki):
    """By name, and by the serial number of one that was rotated away; twice is once."""
    old = pki.certificate("hospital-a")
    pki("rotate", "hospital-a")
    pki("revoke", f"{old.serial_number:x}")
    assert pki.states()["hospital-a"] == "good"
    pki("revoke", "hospital-a")
    pki("revoke", "hospital-a")
    assert pki.states()["hospital-a"] == "revoked"
    new = pki.certificate("hospital-a")
    assert pki.revoked() == {certificate_id(old), certificate_id(new)}


def test_authority_is_replaced_with_both_roots_meanwhile(pki: Pki):
    """What was revoked stays so, twice in a row, until its root is retired."""
    old = pki.certificate("hospital-a")
    pki("revoke", "hospital-a")
    pki("rotate", "--authority")
    assert len(x509.load_pem_x509_certificates((pki.folder / "ca.crt").read_bytes())) == 2
    assert pki.revoked() == {certificate_id(old)}
    assert pki.states()["hospital-a"] == "of an earlier authority"
    assert "rotate those first" in pki("rotate", "--retire", exit_code=2)
    pki("rotate", "hospital-a")
    pki("revoke", "hospital-a")
    pki("rotate", "hospital-a")
    pki("rotate", "--retire")
    assert len(x509.load_pem_x509_certificates((pki.folder / "ca.crt").read_bytes())) == 1
    assert len(pki.revoked()) == 1
    pki("rotate", "--authority")
    pki("rotate", "--authority")
    assert pki.revoked() == frozenset()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("init",), "there is an authority"),
        (("issue", "participant:hospital-a"), "there is a hospital-a.crt"),
        (("issue", "nonsense", "--name", "x"), "is not kind:name"),
        (("issue", "user:x", "--ip", "nope"), "does not appear to be an IPv4"),
        (("issue", "user:ca"), "is no name of a certificate"),
        (("issue", "user:x", "--name", "../x"), "is no name of a certificate"),
        (("rotate",), "name a certificate"),
        (("rotate", "hospital-a", "--authority"), "name a certificate"),
        (("rotate", "nobody"), "no "),
        (("revoke", "nobody"), "no nobody.crt"),
    ],
)
def test_refusal_says_what_is_wrong_and_what_next(pki: Pki, arguments: tuple[str, ...], said: str):
    """And nothing was written."""
    before = {path.name: path.read_bytes() for path in pki.folder.iterdir()}
    answer = pki(*arguments, exit_code=2)
    assert said in " ".join(answer.split())
    assert "next:" in answer
    assert {path.name: path.read_bytes() for path in pki.folder.iterdir()} == before


def test_folder_without_an_authority_is_told_so(tmp_path: Path):
    """A site that only has leaves cannot issue."""
    assert "aegis pki init" in Pki(tmp_path)("show", exit_code=2)


def test_serial_number_that_no_list_of_ours_can_end_is_refused(pki: Pki):
    """Of an earlier authority, or of the authority itself: nothing is said to be done."""
    earlier = f"{pki.certificate('hospital-a').serial_number:x}"
    pki("rotate", "--authority")
    own = f"{pki.certificate('ca').serial_number:x}"
    before = (pki.folder / "ca.crl").read_bytes()
    for serial in (earlier, own):
        assert "is not of this authority" in pki("revoke", serial, exit_code=2)
    assert (pki.folder / "ca.crl").read_bytes() == before


@pytest.mark.parametrize("written", [("ca.crt",), ("ca.crt", "ca.key")])
def test_succession_that_was_killed_loses_neither_the_authority_nor_who_was_revoked(
    pki: Pki, written: tuple[str, ...]
):
    """Whichever of its three files were in place: somebody can sign, and all lists are kept."""
    pki("issue", "participant:hospital-b")
    pki("revoke", "hospital-a")
    names = ("ca.crt", "ca.key", "ca.crl")
    before = {name: (pki.folder / name).read_bytes() for name in names}
    lost = pki.revoked()
    pki("rotate", "--authority")
    for name in set(names) - set(written):
        (pki.folder / name).write_bytes(before[name])
    assert pki.revoked() == lost
    pki("issue", "participant:hospital-c")
    pki("revoke", "hospital-c")
    assert lost < pki.revoked()
