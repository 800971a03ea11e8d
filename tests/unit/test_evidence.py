"""A bundle is what the server signed, or the step that says it is not."""

from __future__ import annotations

import base64
import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis import algorithms
from aegis.evidence import archive, manifest
from aegis.evidence.archive import ArchiveError, pack, unpack
from aegis.evidence.manifest import FileEntry, Manifest, ManifestError
from aegis.evidence.verification import Check, Result, verify_bundle
from aegis.trust import POLICY_DECISION, REVIEW_EVIDENCE, TrustBundle, TrustedKey

KEY = Ed25519PrivateKey.generate()
JUDGED = datetime(2026, 5, 1, 12, tzinfo=UTC)
UPDATE = b"the update's bytes"

Change = Callable[[dict[str, bytes]], None]


def trusted(
    key: Ed25519PrivateKey = KEY, usage: str = REVIEW_EVIDENCE, **fields: datetime
) -> TrustBundle:
    public = key.public_key()
    times = {"not_before": JUDGED - timedelta(days=1), "not_after": JUDGED + timedelta(days=1)}
    known = TrustedKey(
        key_id=algorithms.key_id(public),
        usage=usage,
        owner="server:aegis",
        public_key=public,
        **(times | fields),  # type: ignore[arg-type]
    )
    return TrustBundle((known,))


def evidence(**judgement: object) -> bytes:
    document = {
        "update": {
            "update_id": "upd-1",
            "sha256": hashlib.sha256(UPDATE).hexdigest(),
            "participant": "hospital-1",
        },
        "round": {"number": 3},
        "judgement": {"verdict": "rejected"} | judgement,
    }
    return json.dumps(document).encode()


def about(files: dict[str, bytes], **fields: object) -> Manifest:
    made = Manifest(
        update_id="upd-1",
        update_sha256=hashlib.sha256(UPDATE).digest(),
        run_id="run-1",
        round=3,
        attempt=1,
        participant="hospital-1",
        verdict="rejected",
        review_time=JUDGED,
        create_time=JUDGED,
        evidence_sha256=hashlib.sha256(files["evidence.json"]).digest(),
        files={name: FileEntry.of(data) for name, data in files.items()},
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def signed(
    files: dict[str, bytes], key: Ed25519PrivateKey = KEY, **fields: object
) -> dict[str, bytes]:
    """The files of a bundle, with its manifest."""
    encoded = about(files, **fields).encode()
    return {**files, "manifest.json": encoded, "manifest.dsse": manifest.sign(encoded, key)}


def bundled(key: Ed25519PrivateKey = KEY, **fields: object) -> dict[str, bytes]:
    """The usual ones."""
    files = {"evidence.json": evidence(), "index.html": b"<p>", "score.svg": b"<svg/>"}
    return signed(files, key, **fields)


def checks(result: Result) -> list[Check]:
    return [finding.check for finding in result.findings]


def refusal(data: bytes, trust: TrustBundle | None = None) -> tuple[Check, str, str]:
    """The only thing that is wrong: step, file and problem."""
    (finding,) = verify_bundle(data, trust=trust or trusted()).findings
    return finding.check, finding.file, finding.problem


def test_good_bundle_is_proven_with_its_update():
    """The result tells whose evidence it is and which key signed."""
    result = verify_bundle(pack(bundled()), trust=trusted(), update=UPDATE)
    assert result.good
    assert result.manifest is not None
    assert (result.manifest.update_id, result.manifest.verdict) == ("upd-1", "rejected")
    assert result.key is not None
    assert result.key.owner == "server:aegis"
    assert result.checked == list(Check)[:6]


def test_any_program_opens_a_bundle():
    """It is an ordinary ZIP file."""
    files = bundled()
    with zipfile.ZipFile(BytesIO(pack(files))) as opened:
        assert opened.testzip() is None
        assert {name: opened.read(name) for name in opened.namelist()} == files


@pytest.mark.parametrize("name", ["evidence.json", "index.html", "score.svg"])
def test_changed_byte_in_a_file_is_found_there(name: str):
    """Whether or not the checksum of the ZIP was made to fit."""
    files = bundled()
    changed = bytes([files[name][0] ^ 1]) + files[name][1:]
    fitted = pack(files | {name: changed})
    raw = pack(files).replace(files[name], changed, 1)
    for data in (fitted, raw):
        assert refusal(data) == (Check.FILES, name, "it is not what was signed")


def test_every_changed_byte_is_found():
    """No byte of a bundle may be another one: headers, directory and end included."""
    data = pack(bundled())
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 0x01
        assert not verify_bundle(bytes(changed), trust=trusted()).good, position


def test_every_truncation_is_found():
    """A bundle that lost its end is none, wherever that was."""
    data = pack(bundled())
    for length in range(len(data)):
        assert not verify_bundle(data[:length], trust=trusted()).good, length


def test_missing_file_is_named():
    """A bundle without its page is not the one that was signed."""
    files = bundled()
    del files["index.html"]
    assert refusal(pack(files)) == (Check.FILES, "index.html", "it is missing")


def test_additional_file_is_named():
    """Nothing rides along under the server's signature."""
    data = pack(bundled() | {"more.html": b"trust me"})
    assert refusal(data) == (Check.FILES, "more.html", "the manifest does not list it")


def test_renamed_file_is_missing_and_additional():
    """A name is part of what was signed."""
    files = bundled()
    files["other.svg"] = files.pop("score.svg")
    findings = verify_bundle(pack(files), trust=trusted()).findings
    found = {(each.check, each.file) for each in findings}
    assert found == {(Check.FILES, "other.svg"), (Check.FILES, "score.svg")}


@pytest.mark.parametrize("name", ["manifest.json", "manifest.dsse"])
def test_bundle_without_its_manifest_is_unsigned(name: str):
    """Both of them: one for people, one with the signature."""
    files = bundled()
    del files[name]
    assert refusal(pack(files)) == (Check.SIGNATURE, name, "there is no such file")


def test_manifest_of_another_bundle_is_found():
    """The readable one has to be the signed one, or people and programs see different things."""
    files = bundled()
    other = about({"evidence.json": evidence()}, verdict="accepted").encode()
    result = verify_bundle(pack(files | {"manifest.json": other}), trust=trusted())
    assert checks(result) == [Check.MANIFEST]


def test_swapped_manifests_do_not_fit_the_files():
    """The validly signed manifest of another update says nothing about these files."""
    mine, theirs = bundled(), signed({"evidence.json": evidence(score=2)}, update_id="upd-2")
    theirs["evidence.json"] = mine["evidence.json"]
    result = verify_bundle(pack(mine | theirs), trust=trusted())
    assert set(checks(result)) == {Check.FILES}


def test_other_signature_is_refused():
    """A signature over other bytes, of the right key."""
    files = bundled()
    envelope = json.loads(files["manifest.dsse"])
    envelope["signatures"] = json.loads(manifest.sign(b"{}", KEY))["signatures"]
    files["manifest.dsse"] = json.dumps(envelope).encode()
    check, _, problem = refusal(pack(files))
    assert (check, problem) == (Check.SIGNATURE, "the signature does not fit the payload")


def test_other_key_is_refused():
    """Whoever signs with a key of their own has signed nothing that counts."""
    data = pack(bundled(key=Ed25519PrivateKey.generate()))
    assert refusal(data)[0] is Check.SIGNATURE


def test_key_for_something_else_is_refused():
    """A key has one use: that of decisions does not count under evidence."""
    assert refusal(pack(bundled()), trusted(usage=POLICY_DECISION))[0] is Check.SIGNATURE


def test_key_counts_when_it_was_usable_at_the_time():
    """Evidence outlives its key; what was made before or after it counted does not become good."""
    early = trusted(not_before=JUDGED + timedelta(hours=1))
    late = trusted(not_after=JUDGED)
    revoked = trusted(revoked_at=JUDGED)
    for trust in (early, late, revoked):
        assert refusal(pack(bundled()), trust)[0] is Check.SIGNATURE
    ended = trusted(not_after=JUDGED + timedelta(seconds=1), revoked_at=JUDGED + timedelta(days=9))
    assert verify_bundle(pack(bundled()), trust=ended).good


def test_signature_for_another_type_does_not_count():
    """What the key signed elsewhere cannot be passed off as a manifest."""
    files = bundled()
    envelope = json.loads(files["manifest.dsse"])
    envelope["payloadType"] = "application/json"
    files["manifest.dsse"] = json.dumps(envelope).encode()
    assert refusal(pack(files))[0] is Check.SIGNATURE


@pytest.mark.parametrize(
    "envelope",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"payload": 1, "signatures": [], "payloadType": 2}',
    ],
)
def test_bytes_that_are_no_envelope_are_refused(envelope: bytes):
    """Whatever is in the file, the answer is a finding and no exception."""
    assert refusal(pack(bundled() | {"manifest.dsse": envelope}))[0] is Check.SIGNATURE


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("update_id", "upd-2"),
        ("update_sha256", bytes(32)),
        ("participant", "hospital-2"),
        ("round", 4),
        ("verdict", "accepted"),
        ("evidence_sha256", bytes(32)),
    ],
)
def test_evidence_about_something_else_is_found(field: str, value: object):
    """A server that signs a manifest for the wrong evidence is contradicted by it."""
    result = verify_bundle(pack(bundled(**{field: value})), trust=trusted())
    assert checks(result) == [Check.EVIDENCE]


@pytest.mark.parametrize("data", [b"[]", b"not json", b'{"update": 1}', b"[" * 100_000])
def test_evidence_that_cannot_be_read_is_found(data: bytes):
    """Signed or not."""
    result = verify_bundle(pack(signed({"evidence.json": data})), trust=trusted())
    assert checks(result) == [Check.EVIDENCE]


def test_another_update_is_found():
    """The evidence is about these bytes or about others."""
    result = verify_bundle(pack(bundled()), trust=trusted(), update=UPDATE + b"!")
    assert checks(result) == [Check.UPDATE]


def zipped(name: str, data: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    target = BytesIO()
    with zipfile.ZipFile(target, "w", method) as made:
        made.writestr(name, data)
    return target.getvalue()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "no ZIP file"),
        (b"hello", "no ZIP file"),
        (zipped("../../etc/passwd", b"x"), "no name of a file"),
        (zipped("/etc/passwd", b"x"), "no name of a file"),
        (zipped("a/b.svg", b"x"), "no name of a file"),
        (zipped("a\\b.svg", b"x"), "no name of a file"),
        (zipped(".hidden", b"x"), "no name of a file"),
        (zipped("index.html", bytes(5_000_000), zipfile.ZIP_DEFLATED), "compressed"),
        (b"PK\x03\x04" + bytes(10), "middle of a header"),
        (bytes(archive.BUNDLE_BYTES_MAX + 1), "more than"),
    ],
)
def test_what_is_no_bundle_is_refused_before_anything_is_unpacked(data: bytes, problem: str):
    """No paths, nothing hidden, nothing compressed, nothing too large."""
    result = verify_bundle(data, trust=trusted())
    assert checks(result) == [Check.ARCHIVE]
    assert problem in result.findings[0].problem


def test_file_that_claims_more_than_there_is_is_refused():
    """Four gigabytes are announced in four bytes."""
    data = bytearray(pack({"a": b"x"}))
    data[18:22] = data[22:26] = b"\xff\xff\xff\xff"
    with pytest.raises(ArchiveError, match="ends in the middle of a"):
        unpack(bytes(data))


def test_file_that_is_there_twice_is_refused():
    """Two programs would read different ones."""
    one = pack({"a": b"x"})
    with pytest.raises(ArchiveError, match="twice"):
        unpack(one[: one.index(b"PK\x01\x02")] + one)


def test_more_files_than_a_bundle_has_are_refused():
    """A small file can name very many."""
    packed = [pack({f"f{number}": b""}) for number in range(65)]
    headers = [each[: each.index(b"PK\x01\x02")] for each in packed]
    with pytest.raises(ArchiveError, match="more than 64 files"):
        unpack(b"".join(headers))


@pytest.mark.parametrize(
    "around", [(b"junk", b""), (b"", b"junk"), (b"", b"PK\x05\x06" + bytes(18))]
)
def test_bytes_around_a_bundle_are_found(around: tuple[bytes, bytes]):
    """A ZIP may be glued to something else and still opens; a bundle is a bundle only."""
    before, behind = around
    result = verify_bundle(before + pack(bundled()) + behind, trust=trusted())
    assert checks(result) == [Check.ARCHIVE]


def test_zip_made_anew_from_the_same_files_is_found():
    """Other times, other order: the signature covers the files, the form covers the rest."""
    target = BytesIO()
    with zipfile.ZipFile(target, "w") as made:
        for name, data in sorted(bundled().items()):
            made.writestr(name, data)
    result = verify_bundle(target.getvalue(), trust=trusted())
    assert checks(result) == [Check.ARCHIVE]


NAMES = st.text("abz019._-", min_size=1, max_size=9).filter(lambda name: name[0].isalnum())


@given(st.dictionaries(NAMES, st.binary(max_size=60), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_whatever_is_packed_is_unpacked(files: dict[str, bytes]):
    """Both of us and of the standard library."""
    data = pack(files)
    assert unpack(data) == files
    with zipfile.ZipFile(BytesIO(data)) as opened:
        assert {name: opened.read(name) for name in opened.namelist()} == files
        assert all(zlib.crc32(files[each.filename]) == each.CRC for each in opened.infolist())


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_are_refused_and_never_raise(data: bytes):
    """Evidence comes from people one does not know."""
    assert not verify_bundle(data, trust=trusted()).good
    assert not verify_bundle(b"PK\x03\x04" + data, trust=trusted()).good


def test_manifest_says_nothing_a_verifier_does_not_know():
    """A field of a later format would go unchecked, so it is another format."""
    document = json.loads(about({"evidence.json": evidence()}).encode())
    for more in ({"note": "all good"}, {"format": "aegis-review-bundle/2"}):
        data = json.dumps(document | more, indent=2, sort_keys=True).encode() + b"\n"
        with pytest.raises(ManifestError):
            Manifest.decode(data)


def test_envelope_is_the_dsse_of_others():
    """Any DSSE library verifies it: payload, type and signatures under their usual names."""
    envelope = json.loads(bundled()["manifest.dsse"])
    assert envelope.keys() == {"payload", "payloadType", "signatures"}
    kind, payload = envelope["payloadType"], base64.b64decode(envelope["payload"])
    message = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
    KEY.public_key().verify(base64.b64decode(envelope["signatures"][0]["sig"]), message)


@pytest.mark.parametrize("name", ["", "../a", "a/b", "A", ".a", "a" * 65, "ä"])
def test_names_a_bundle_cannot_have_are_not_packed(name: str):
    """The writer keeps the reader's rule."""
    with pytest.raises(ValueError, match="no name"):
        pack({name: b""})
