"""From a run to a model somebody else can load, on a laptop as `aegis up` sets it up."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.e2e.test_cli import answer, run


def test_model_of_a_run_leads_back_to_its_reviews_and_out_of_aegis(home: Path, tmp_path: Path):
    """Nobody's rejected update is in it; its bytes lie encrypted and leave as they were made."""
    started = run(home, "train", "start", "--rounds", "2", "--attack", "sign-flip")
    assert started.returncode == 0, started.stderr
    run_id = answer(home, "train", "list")[0]["run_id"]
    models = answer(home, "model", "list", "--run", run_id)
    assert [model["round"] for model in models] == [2, 1, 0]
    chain = answer(home, "model", "lineage", models[0]["model_id"][:8])
    assert [model["model_id"] for model in chain] == [model["model_id"] for model in models]
    for model in chain[:2]:
        parts = model["ingredients"]
        assert {part["verdict"] for part in parts} == {"VERDICT_ACCEPTED"}
        assert "site-5" not in {part["participant"] for part in parts}
        update = answer(home, "update", "show", parts[0]["update_id"])
        assert update["participant"] == parts[0]["participant"]
    folder = tmp_path / "exported"
    exported = run(home, "model", "export", models[0]["model_id"], str(folder))
    assert exported.returncode == 0, exported.stderr
    data = (folder / "model.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == models[0]["model_id"]
    stored = home / "blobs" / "objects" / models[0]["model_id"][:2] / models[0]["model_id"]
    assert stored.read_bytes().startswith(b"AEGISOBJ")
    assert b"layer1.weight" in data
    assert b"layer1.weight" not in stored.read_bytes()
    metrics = answer(home, "train", "metrics", run_id)
    assert [each["round"] for each in metrics["rounds"]] == [0, 1, 2]
    assert metrics["missing"] == []
