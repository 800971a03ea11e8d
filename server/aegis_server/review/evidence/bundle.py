"""The bundle of an update: drawn in a worker process, signed outside of it.

A worker draws from a `Draft`, plain values that cross the border of a process; the key never does.
Equal drafts give equal bundles, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from aegis.algorithms import PrivateKey
from aegis.evidence import manifest
from aegis.evidence.archive import pack
from aegis.evidence.manifest import EVIDENCE, PAGE, FileEntry, Manifest
from aegis_learning import parameters
from aegis_learning.models import Family
from aegis_learning.rows import Split
from aegis_server.review.evidence.numbers import digest_of
from aegis_server.review.evidence.words import Words

CROSSCHECK = "crosscheck.json"


class ExplainMissing(RuntimeError):
    """The libraries of the extra `explain` are not installed."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What a bundle is drawn from; `about` lists no files yet.

    `golden` are the golden rows as they are now: only used when they are those of the review.
    """

    about: Manifest
    evidence: bytes
    words: Words
    family: Family
    base: bytes
    update: bytes
    golden: Split


def drawn(draft: Draft) -> dict[str, bytes]:
    """Returns all files but the manifest's two; raises `ExplainMissing`."""
    try:
        from aegis_server.review.evidence.pictures import draw

        evidence = json.loads(draft.evidence)
        pictures = draw(evidence, draft.words)
        crosscheck = crosschecked(draft, evidence["golden"]["sha256"])
    except ModuleNotFoundError as error:
        raise ExplainMissing(error.name or "") from error
    from aegis_server.review.evidence.page import page

    shown = page(
        evidence,
        about=draft.about,
        words=draft.words,
        pictures=pictures,
        crosscheck=crosscheck,
    )
    told = json.dumps(crosscheck, indent=2, sort_keys=True).encode() + b"\n"
    return {**pictures, EVIDENCE: draft.evidence, CROSSCHECK: told, PAGE: shown}


def sealed(files: Mapping[str, bytes], about: Manifest, key: PrivateKey) -> bytes:
    """Returns the bundle of these files with its signed manifest."""
    listed = replace(about, files={name: FileEntry.of(data) for name, data in files.items()})
    signed = listed.encode()
    return pack({**files, manifest.MANIFEST: signed, manifest.SIGNED: manifest.sign(signed, key)})


def crosschecked(draft: Draft, golden_sha256: str) -> dict[str, object]:
    """Returns what shap makes of the update's model, on the rows of this digest or not at all."""
    from aegis_server.review.evidence.crosscheck import crosscheck

    if digest_of(draft.golden).hex() != golden_sha256:
        return {"skipped": "the golden rows are other ones by now"}
    shapes = draft.family.shapes
    model = parameters.add(
        parameters.decode(draft.base, shapes), parameters.decode(draft.update, shapes)
    )
    return crosscheck(draft.family, model, draft.golden.x, draft.golden.y)
