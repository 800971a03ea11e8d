"""The site's side: a folder that is whole or can be made whole, whatever was cut off."""

from __future__ import annotations

import json
import stat
import tomllib
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from tests.integration.participants.house import House
from tests.integration.participants.test_datasets import PATIENTS, ROWS, csv, register

from aegis import joining, sitekeys
from aegis.channel import Identity
from aegis.errors import AegisError, PermissionDenied
from aegis.holding import add
from aegis.joining import Site, SiteError, join, renew
from aegis.jointoken import JoinToken
from aegis.v1 import identity_pb2
from aegis.v1 import participant_pb2 as pb
from aegis_learning.schema import Schema

PATIENTS_BOUND = pb.InviteParticipantRequest.Bound(dataset="patients", rows_max=50)


async def joined(house: House, folder: Path, **changes: object) -> Site:
    token = await house.invite(**changes)
    site, _ = await join(token.text(), folder)
    return site


async def subject(house: House, identity: Identity) -> str:
    async with house.calling(identity) as call:
        return (await call(call.identity.WhoAmI, identity_pb2.WhoAmIRequest())).subject


async def test_joined_folder_has_all_a_site_needs(house: House, tmp_path: Path):
    """Readable by nobody else, with settings that say where the server is."""
    folder = tmp_path / "site"
    token = await house.invite()
    site, datasets = await join(token.text(), folder)
    assert list(datasets) == ["breast-cancer"]
    assert await subject(house, site.identity) == "participant:hospital-a"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == dict.fromkeys(("site.key", "site.crt", "roots.crt", "site.toml"), 0o600)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert tomllib.loads((folder / "site.toml").read_text()) == {
        "server": {"address": house.servers[0].port.address},
        "participant": {"name": "hospital-a", "trust_domain": "aegis.local"},
        "privacy": {"epsilon_limit": 12.0, "delta": 1e-05},
    }
    assert Site.read(folder) == site
    assert token.secret.hex() not in "".join(p.read_bytes().hex() for p in folder.iterdir())


@pytest.mark.parametrize("cut", ["site.key", "roots.crt", "site.crt", "site.toml"])
async def test_joining_that_was_cut_off_is_repeated(
    house: House, tmp_path: Path, cut: str, monkeypatch: pytest.MonkeyPatch
):
    """Behind whichever file: the same token makes the folder whole, with one certificate."""
    token, folder = await house.invite(), tmp_path / "site"
    write = joining.write_private

    def cut_off(path: Path, data: bytes, written: list[str]) -> None:
        write(path, data, written)
        if path.name == cut:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        for module in (joining, sitekeys):
            patch.setattr(module, "write_private", cut_off)
        with pytest.raises(KeyboardInterrupt):
            await join(token.text(), folder)
    if cut != "site.toml":
        await join(token.text(), folder)
    site = Site.read(folder)
    assert await subject(house, site.identity) == "participant:hospital-a"
    assert len(await house.records("enrol")) == 1


async def test_token_does_not_work_in_a_second_folder(house: House, tmp_path: Path):
    """It was the first one's, and the second gets no settings."""
    token = await house.invite()
    await join(token.text(), tmp_path / "first")
    with pytest.raises(PermissionDenied):
        await join(token.text(), tmp_path / "second")
    assert not (tmp_path / "second" / "site.toml").exists()


async def test_joined_folder_is_not_joined_again(house: House, tmp_path: Path):
    """Somebody's rows and settings are in it."""
    await joined(house, tmp_path / "site")
    other = await house.invite("hospital-b")
    with pytest.raises(SiteError, match="has joined already"):
        await join(other.text(), tmp_path / "site")


async def test_token_of_another_server_finds_no_trust(house: House, tmp_path: Path):
    """A site never shows its secret to whom the token's roots do not vouch for."""
    token = await house.invite()
    foreign = (house.folder / "pki" / "participants-ca.crt").read_bytes()
    forged = JoinToken(token.address, foreign, token.secret)
    with pytest.raises(AegisError) as refusal:
        await join(forged.text(), tmp_path / "site")
    assert refusal.value.code == grpc.StatusCode.UNAVAILABLE
    # The secret was not used up.
    await join(token.text(), tmp_path / "site")


async def test_renewal_replaces_the_pair_even_when_it_is_cut_off(house: House, tmp_path: Path):
    """Between certificate and key, the next start finds the pair together."""
    site = await joined(house, tmp_path / "site")
    before = site.identity.certificate.read_bytes()
    ends = await renew(site)
    after = x509.load_pem_x509_certificate(site.identity.certificate.read_bytes())
    assert site.identity.certificate.read_bytes() != before
    assert ends == after.not_valid_after_utc
    site.identity.check()
    # As it lies there when it was cut off: the certificate is new and the key is still the old.
    fresh = site.folder / "site.key.next"
    site.identity.key.rename(fresh)
    site.identity.key.write_bytes(b"the key before")
    mended = Site.read(site.folder)
    mended.identity.check()
    assert not fresh.exists()
    assert await subject(house, mended.identity) == "participant:hospital-a"


async def test_rows_are_checked_pinned_and_declared(house: House, tmp_path: Path):
    """What was dropped is counted; what counts is bounded; the rows stay where they are."""
    await register(house)
    site = await joined(house, tmp_path / "site", datasets=[PATIENTS_BOUND])
    file = tmp_path / "rows.csv"
    file.write_bytes(csv(*ROWS, "ill,nan,f", "ill,1,x", "well,2,x"))
    added = await add(site, "patients", file, provenance="ward 3")
    assert (added.rows, added.first) == (60, 62)
    assert added.dropped == {"age: is not finite": 1, "sex: is none of the schema's values": 2}
    assert (added.declared.rows, added.declared.examples) == (60, 50)
    assert list(added.declared.class_counts) == [45, 15]
    assert added.declared.provenance == "ward 3"
    pinned = json.loads((site.folder / "schemas" / "patients.json").read_text())
    assert Schema.from_json(pinned) == PATIENTS
    settings = tomllib.loads((site.folder / "site.toml").read_text())
    assert settings["data"] == {"patients": {"file": str(file)}}
    # Again, with fewer rows: declared anew, written once.
    file.write_bytes(csv(*ROWS[:20]))
    again = await add(site, "patients", file)
    assert again.declared.rows == 20
    assert tomllib.loads((site.folder / "site.toml").read_text()) == settings


async def test_counts_can_be_declared_with_noise(house: House, tmp_path: Path):
    """And say so."""
    await register(house)
    site = await joined(house, tmp_path / "site", datasets=[PATIENTS_BOUND])
    file = tmp_path / "rows.csv"
    file.write_bytes(csv(*ROWS))
    added = await add(site, "patients", file, epsilon=0.5, public=True)
    assert added.declared.noised
    assert sum(added.declared.class_counts) == added.declared.rows
    assert abs(added.declared.rows - 60) < 80
    settings = tomllib.loads((site.folder / "site.toml").read_text())
    assert settings["data"]["patients"]["public"] is True


async def test_rows_of_which_few_fit_are_declared_only_when_told_so(house: House, tmp_path: Path):
    """Another spelling, or a schema that is made to find somebody: their number stays here."""
    await register(house)
    site = await joined(house, tmp_path / "site", datasets=[PATIENTS_BOUND])
    file = tmp_path / "rows.csv"
    file.write_bytes(csv("ill,1,f", "ill,2,f", "ill,1,F", "well,2,F", "well,3,M"))
    with pytest.raises(SiteError, match=r"of 5 rows only 2 fit.*sex: is none"):
        await add(site, "patients", file)
    assert await house.records("declare") == []
    assert (await add(site, "patients", file, few=True)).rows == 2


async def test_rows_that_cannot_be_added_leave_everything_as_it_was(house: House, tmp_path: Path):
    """No file, no such table, another file than before, another schema than was pinned."""
    await register(house)
    site = await joined(house, tmp_path / "site", datasets=[PATIENTS_BOUND])
    before = (site.folder / "site.toml").read_text()
    missing = tmp_path / "missing.csv"
    with pytest.raises(SiteError, match="No such file"):
        await add(site, "patients", missing)
    empty = tmp_path / "empty.csv"
    empty.write_bytes(csv())
    with pytest.raises(SiteError, match="there are no rows"):
        await add(site, "patients", empty)
    assert (site.folder / "site.toml").read_text() == before
    rows = tmp_path / "rows.csv"
    rows.write_bytes(csv(*ROWS))
    await add(site, "patients", rows)
    with pytest.raises(SiteError, match="names another file"):
        await add(site, "patients", empty)
    other = Schema(PATIENTS.features, "outcome", ("ill", "well"))
    (site.folder / "schemas" / "patients.json").write_bytes(other.canonical)
    with pytest.raises(SiteError, match="pins another schema"):
        await add(site, "patients", rows)
    assert await house.records("declare") != []
    assert len(await house.records("declare")) == 1
