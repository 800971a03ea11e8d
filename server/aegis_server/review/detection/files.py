"""Detectors as files: numbers in safetensors, names in JSON beside them; nothing that could run.

A file that was damaged or made by hand is refused before anything is judged with it: the digest of
its numbers, their shapes and types, that they are finite, that quantiles grow, and that every tree
ends: a child always comes behind its parent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from aegis_server.review.detection.forest import Forest
from aegis_server.review.detection.measures import NAMES
from aegis_server.review.detection.regimes import VIEWS, Calibration, Knowledge, Regime
from aegis_server.review.detection.tails import SURVIVAL, Table

_FORMAT = 1
_BYTES_MAX = 4 * 1024 * 1024

Tensors = dict[str, NDArray[Any]]


class DetectorInvalid(ValueError):
    """The bytes are not a detector of this version of the program, or they were damaged."""


def write(regimes: Mapping[str, Regime], *, version: str, target: float) -> bytes:
    """Returns the file of a detector; equal detectors give equal bytes."""
    tensors: Tensors = {}
    for name, regime in regimes.items():
        _write_knowledge(tensors, f"{name}/now", regime.now)
        _write_knowledge(tensors, f"{name}/so-far", regime.so_far)
        for size, known in regime.sizes.items():
            for part in ("now", "so_far", "total"):
                _write_table(tensors, f"{name}/size-{size}/{part}", getattr(known, part))
    about = {
        "format": _FORMAT,
        "version": version,
        "target": target,
        "measures": NAMES,
        "regimes": {name: sorted(r.sizes) for name, r in sorted(regimes.items())},
        "sha256": _digest(tensors),
    }
    metadata = {"aegis": json.dumps(about, sort_keys=True)}
    # The library writes memory as it lies: a transposed array would come back as another.
    laid_out = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    return safetensors.numpy.save(laid_out, metadata)


def read(data: bytes) -> tuple[str, float, Mapping[str, Regime]]:
    """Returns version, target and regimes of a detector; raises `DetectorInvalid`."""
    if len(data) > _BYTES_MAX:
        raise DetectorInvalid(f"a detector has at most {_BYTES_MAX} bytes")
    try:
        about = _about(data)
        tensors = safetensors.numpy.load(data)
        if about["format"] != _FORMAT or tuple(about["measures"]) != NAMES:
            raise DetectorInvalid("it is for another version of the program")
        if about["sha256"] != _digest(tensors):
            raise DetectorInvalid("its numbers are not the ones that were written")
        target = float(about["target"])
        if not 0 < target < 0.5 or not about["regimes"]:
            raise DetectorInvalid("it has no rate of false positives, or nothing to judge with")
        regimes = {
            str(name): Regime(
                _knowledge(tensors, f"{name}/now"),
                _knowledge(tensors, f"{name}/so-far"),
                {int(s): _calibration(tensors, f"{name}/size-{int(s)}") for s in sizes},
            )
            for name, sizes in about["regimes"].items()
            if sizes
        }
        return str(about["version"]), target, regimes
    except (safetensors.SafetensorError, KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, DetectorInvalid):
            raise
        raise DetectorInvalid("this is not a detector") from error


def _about(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    about: dict[str, Any] = json.loads(header["__metadata__"]["aegis"])
    return about


def _digest(tensors: Tensors) -> str:
    digest = hashlib.sha256()
    for name, values in sorted(tensors.items()):
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _write_table(tensors: Tensors, name: str, table: Table) -> None:
    tensors[f"{name}/quantiles"] = table.quantiles
    tensors[f"{name}/scales"] = table.scales


def _write_knowledge(tensors: Tensors, name: str, knowledge: Knowledge) -> None:
    _write_table(tensors, name, knowledge.tails)
    forest = knowledge.forest
    tensors[f"{name}/roots"] = forest.roots.astype(np.int16)
    tensors[f"{name}/feature"] = forest.feature.astype(np.int16)
    tensors[f"{name}/threshold"] = forest.threshold
    tensors[f"{name}/left"] = forest.left.astype(np.int16)
    tensors[f"{name}/right"] = forest.right.astype(np.int16)
    tensors[f"{name}/depth"] = forest.depth
    tensors[f"{name}/usual"] = np.array([forest.usual], np.float32)


def _calibration(tensors: Tensors, name: str) -> Calibration:
    views = len(VIEWS)
    return Calibration(
        _table(tensors, f"{name}/now", views),
        _table(tensors, f"{name}/so_far", views),
        _table(tensors, f"{name}/total", 1),
    )


def _knowledge(tensors: Tensors, name: str) -> Knowledge:
    return Knowledge(_table(tensors, name, len(NAMES)), _forest(tensors, name))


def _table(tensors: Tensors, name: str, columns: int) -> Table:
    quantiles = _floats(tensors, f"{name}/quantiles", (columns, len(SURVIVAL)))
    scales = _floats(tensors, f"{name}/scales", (columns,))
    if (np.diff(quantiles, axis=1) < 0).any() or (scales <= 0).any():
        raise DetectorInvalid(f"{name}: quantiles have to grow")
    return Table(quantiles, scales)


def _forest(tensors: Tensors, name: str) -> Forest:
    nodes = len(tensors[f"{name}/feature"])
    roots, feature, left, right = (
        tensors[f"{name}/{part}"].astype(np.int32) for part in ("roots", "feature", "left", "right")
    )
    place = np.arange(nodes)
    leaf = left == place
    usual = float(_floats(tensors, f"{name}/usual", (1,))[0])
    whole = (
        len(roots) > 0
        and left.shape == right.shape == (nodes,)
        and ((roots >= 0) & (roots < nodes)).all()
        and ((feature >= 0) & (feature < len(NAMES))).all()
        and (left < nodes).all()
        and (right < nodes).all()
        and (leaf == (right == place)).all()
        and (left[~leaf] > place[~leaf]).all()
        and (right[~leaf] > place[~leaf]).all()
        and usual > 0
    )
    if not whole:
        raise DetectorInvalid(f"{name}: this is not a forest")
    return Forest(
        roots,
        feature.astype(np.int16),
        _floats(tensors, f"{name}/threshold", (nodes,)),
        left,
        right,
        _floats(tensors, f"{name}/depth", (nodes,)),
        usual,
    )


def _floats(tensors: Tensors, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    values = tensors[name]
    if values.dtype != np.float32 or values.shape != shape or not np.isfinite(values).all():
        raise DetectorInvalid(f"{name} is not {list(shape)} finite numbers")
    return values
