"""A bundle shows what the numbers say, the same way every time, and loads nothing."""

from __future__ import annotations

import base64
import html
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image
from tests.unit.review.bundles import Signer, a_named_round, draft_of

from aegis.evidence.archive import unpack
from aegis.evidence.verification import verify_bundle
from aegis_learning import models, parameters
from aegis_learning.rows import Split
from aegis_server.review.evidence.bundle import (
    Draft,
    ExplainMissing,
    crosschecked,
    drawn,
    sealed,
)
from aegis_server.review.evidence.captions import CAPTIONS
from aegis_server.review.evidence.crosscheck import crosscheck

ROOT = Path(__file__).parents[3]
PICTURES = ("score", "shap-bars", "shap-rows", "confusion", "layers")


class Links(HTMLParser):
    """Collects whatever a page would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]


@pytest.fixture(scope="module")
def draft() -> Draft:
    return draft_of(a_named_round(s3="sign-flip"))


@pytest.fixture(scope="module")
def files(draft: Draft) -> dict[str, bytes]:
    return drawn(draft)


def test_bundle_has_numbers_pictures_and_a_page(files: dict[str, bytes]):
    """Each picture as SVG and PNG, both readable; nothing but what the manifest may list."""
    pictures = {f"{name}.{kind}" for name in PICTURES for kind in ("svg", "png")}
    assert files.keys() == pictures | {"evidence.json", "crosscheck.json", "index.html"}
    for name in PICTURES:
        assert ElementTree.fromstring(files[f"{name}.svg"]).tag.endswith("svg")
        assert Image.open(BytesIO(files[f"{name}.png"])).width > 1000


def test_two_bundles_of_the_same_evidence_are_equal_byte_for_byte(
    draft: Draft, files: dict[str, bytes]
):
    """In another process as well: no time, no chance. And drawing loads no training framework."""
    program = (
        "import sys\n"
        "from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey\n"
        "from tests.unit.review.bundles import a_named_round, draft_of\n"
        "from aegis_server.review.evidence.bundle import drawn, sealed\n"
        "draft = draft_of(a_named_round(s3='sign-flip'))\n"
        "key = Ed25519PrivateKey.from_private_bytes(bytes(32))\n"
        "sys.stdout.buffer.write(sealed(drawn(draft), draft.about, key))\n"
        "assert 'shap' in sys.modules and 'torch' not in sys.modules\n"
    )
    there = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, cwd=ROOT
    )
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    assert there.stdout == sealed(files, draft.about, key)


def test_bundle_verifies(draft: Draft, files: dict[str, bytes]):
    """What the server makes, the client's verification finds good."""
    signer = Signer(Ed25519PrivateKey.generate())
    data = sealed(files, draft.about, signer.key)
    result = verify_bundle(data, trust=signer.trust, update=draft.update)
    assert result.findings == []
    assert unpack(data)["evidence.json"] == draft.evidence


def test_page_says_the_verdict_why_and_how_to_check(draft: Draft, files: dict[str, bytes]):
    """Who has only the page learns what was decided and from which numbers."""
    page = files["index.html"].decode()
    assert "The update of hospital-s3 was rejected" in page
    strongest = json.loads(draft.evidence)["judgement"]["findings"][0]
    assert html.escape(strongest["text"])[1:] in page
    assert draft.about.evidence_sha256.hex() in page
    assert "aegis update verify-evidence s3.zip" in page


def test_page_loads_and_runs_nothing(files: dict[str, bytes]):
    """Evidence is opened on machines that trust nobody: pictures are inside, scripts are not."""
    page = files["index.html"].decode()
    links = Links()
    links.feed(page)
    assert all(each.startswith("data:image/svg+xml;base64,") for each in links.loaded)
    assert len(links.loaded) == len(PICTURES)
    assert not links.tags & {"script", "iframe", "object", "link"}
    assert "default-src 'none'" in page
    shown = {base64.b64decode(each.partition(",")[2]) for each in links.loaded}
    assert shown == {files[f"{name}.svg"] for name in PICTURES}


def test_hostile_text_and_odd_numbers_are_shown_for_what_they_are(draft: Draft):
    """A name cannot become part of the page; a model that overflows is drawn all the same."""
    nasty = '<script>alert("x")</script>-->'
    evidence = json.loads(draft.evidence)
    evidence["judgement"]["findings"][0]["text"] = nasty
    evidence["judgement"]["would_change"] = [nasty]
    evidence["judgement"]["false_positive_rate"] = 1e-9
    evidence["attribution"]["update"][0] = [None, None]
    evidence["probe"]["update"][0] = [None] * len(evidence["probe"]["features"])
    evidence["layers"][0]["norm"] = None
    evidence["population"]["scores"][-1] = evidence["judgement"]["score"] = 1e6
    files = drawn(
        replace(
            draft,
            evidence=json.dumps(evidence).encode(),
            about=replace(draft.about, participant=nasty),
            words=replace(draft.words, features=(nasty,) * 30, classes=(nasty, "$x^2$")),
        )
    )
    assert b"<script>" not in files["index.html"]
    assert b"&lt;script&gt;" in files["index.html"]
    assert b"1e+06" in files["index.html"]
    assert b"fewer than 0.01% are expected" in files["index.html"]
    for name in PICTURES:
        assert ElementTree.fromstring(files[f"{name}.svg"]).find(".//script") is None


def test_shap_agrees_with_our_values(files: dict[str, bytes]):
    """Another implementation, exact for a linear model, finds the same."""
    told = json.loads(files["crosscheck.json"])
    assert told["explainer"] == "LinearExplainer"
    assert told["cosine"] > 0.999
    assert told["ours"] == pytest.approx(told["theirs"], rel=1e-4)


def test_shap_agrees_from_outside_for_a_deeper_model():
    """KernelExplainer sees answers only, and disturbs nobody's random numbers."""
    family = models.family("mlp-8", 6, 3)
    random = np.random.default_rng(1)
    x = random.uniform(-1, 1, (40, 6)).astype(np.float32)
    before = np.random.get_state()[1].copy()
    told = crosscheck(family, family.initial(2), x, random.integers(0, 3, 40))
    assert told["explainer"] == "KernelExplainer"
    assert told["cosine"] > 0.98
    assert (np.random.get_state()[1] == before).all()


def test_model_too_large_for_shap_is_not_asked():
    """What a request may cost is bounded; our own values are there all the same."""
    family = models.family("mlp-2000", 2000, 2)
    rows = np.zeros((20, 2000), np.float32)
    told = crosscheck(family, family.initial(1), rows, np.arange(20) % 2)
    assert told == {"skipped": "the model is too large for shap's own explainer"}


def test_other_golden_rows_are_not_explained(draft: Draft):
    """Rows that were exchanged since would show something else than the review saw."""
    golden = Split(draft.golden.x[::-1], draft.golden.y[::-1])
    expected = json.loads(draft.evidence)["golden"]["sha256"]
    told = crosschecked(replace(draft, golden=golden), expected)
    assert told == {"skipped": "the golden rows are other ones by now"}


def test_missing_libraries_are_named(draft: Draft, monkeypatch: pytest.MonkeyPatch):
    """Without the extra `explain` the answer is which library to install, not a stack trace."""
    for name in [name for name in sys.modules if re.match(r"matplotlib(\.|$)", name)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ExplainMissing, match="matplotlib"):
        drawn(draft)


def test_update_of_nothing_changes_nothing():
    """The median of a round that does not move is no divisor."""
    case = a_named_round()
    still = parameters.encode(
        {name: np.zeros(shape, np.float32) for name, shape in case.family.shapes.items()}
    )
    case = replace(case, submissions=tuple(replace(s, data=still) for s in case.submissions))
    draft = draft_of(case)
    _, caption = CAPTIONS["layers"]
    assert "nothing to compare" in caption(json.loads(draft.evidence), draft.words)
