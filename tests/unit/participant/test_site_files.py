"""What a site keeps and reads: settings, answers, rows, status and figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.sites import SCHEMA, Ground, rows

from aegis.errors import AegisError
from aegis_learning import scores
from aegis_learning.pinning import app_digest
from aegis_participant import metrics
from aegis_participant.answers import Answer, Answers
from aegis_participant.app import rows_of
from aegis_participant.apps import built_in
from aegis_participant.flower import Context, RecordDict
from aegis_participant.rows import Counts
from aegis_participant.settings import Settings, SettingsError


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground.make(tmp_path)


def test_settings_say_where_everything_is(ground: Ground) -> None:
    """Relative names are in the site's folder; what is not said has a default."""
    settings = ground.settings(more='[metrics]\nstore = "figures"\n')
    data = settings.data["ward"]
    assert (ground.folder / "rows.csv", SCHEMA, False) == (data.file, data.schema, data.public)
    assert (data.epsilon_limit, data.delta) == (12.0, 1e-5)
    assert (str(ground.folder / "figures"), False, 2) == (
        settings.store,
        settings.share,
        settings.at_once,
    )


def test_site_without_apps_runs_what_ships(ground: Ground) -> None:
    """Pinned to the installed files."""
    ground.write()
    file = ground.folder / "site.toml"
    file.write_text(file.read_text().partition("[apps.toy]")[0])
    assert {"aegis": built_in()} == dict(Settings.read(ground.folder).apps)


def test_what_ships_is_the_same_beside_other_applications(ground: Ground) -> None:
    """Pinned to all it is made of, as tasks are; and its name is for nothing else."""
    assert built_in() == ground.settings(more="[apps.aegis]\n").apps["aegis"]
    with pytest.raises(SettingsError, match=r"apps\.aegis\.module"):
        ground.settings(more='[apps.aegis]\nmodule = "toyapp:app"\npath = "code"\n')


def test_every_wrong_setting_is_named_in_one_message(ground: Ground) -> None:
    """With what to do about it."""
    (ground.folder / "site.toml").write_text(
        '[server]\naddress = "nowhere"\nport = 1\n'
        '[participant]\nname = "Hospital A"\n'
        '[data.ward]\nfile = "missing.csv"\npublic = "no"\n'
        '[data.other]\nfile = "rows.csv"\n'
        "[privacy]\nepsilon_limit = -1\ndelta = nan\n"
        f'[apps.toy]\nmodule = "toyapp:app"\npath = "code"\nsha256 = "{"0" * 64}"\n'
        '[metrics]\nstore = "s3://"\nshare = 1\n'
        "[workers]\nat_once = 0\n"
        "[surprise]\n"
    )
    with pytest.raises(SettingsError) as error:
        Settings.read(ground.folder)
    for named in (
        "server.address",
        "server.port",
        "participant.name",
        "data.ward.file",
        "data.ward.public",
        "data.other: ",
        "privacy.epsilon_limit",
        "privacy.delta",
        "apps.toy.sha256",
        app_digest(ground.folder / "code").hex(),
        "metrics.store",
        "metrics.share",
        "workers.at_once",
        "surprise",
    ):
        assert named in str(error.value)


@pytest.mark.parametrize("missing", ["site.toml", "site.key", "schemas/ward.json", "rows.csv"])
def test_missing_file_is_named(ground: Ground, missing: str) -> None:
    """A site that was not joined, or not completely."""
    ground.write()
    (ground.folder / missing).unlink()
    with pytest.raises(SettingsError, match=missing.replace(".", r"\.")):
        Settings.read(ground.folder)


def test_key_of_another_certificate_is_named(ground: Ground) -> None:
    """Before a handshake fails without a reason."""
    (ground.folder / "site.key").write_bytes((ground.pki / "server.key").read_bytes())
    with pytest.raises(SettingsError, match="is not the key of"):
        ground.settings()


@pytest.mark.parametrize("file", ["./rows.csv", "linked.csv"])
def test_same_rows_under_two_names_are_refused(ground: Ground, file: str) -> None:
    """Limits are a data set's own: the rows would have two."""
    (ground.folder / "linked.csv").hardlink_to(ground.folder / "rows.csv")
    schema = ground.folder / "schemas" / "ward.json"
    (ground.folder / "schemas" / "ward2.json").write_text(schema.read_text())
    with pytest.raises(SettingsError, match=r"data\.ward2\.file"):
        ground.settings(more=f'[data.ward2]\nfile = "{file}"\n')


def test_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    """Where the code is installed does not matter; what is not code does not, either."""
    digests = []
    for name in ("one", "two"):
        (tmp_path / name / "package").mkdir(parents=True)
        (tmp_path / name / "package" / "a.py").write_text("x = 1\n")
        (tmp_path / name / "notes.txt").write_text(name)
        digests.append(app_digest(tmp_path / name))
    assert digests[0] == digests[1]
    (tmp_path / "two" / "package" / "a.py").rename(tmp_path / "two" / "package" / "b.py")
    assert digests[0] != app_digest(tmp_path / "two")
    with pytest.raises(ValueError, match=r"no \.py file"):
        app_digest(tmp_path / "none")


def test_answers_are_bounded_and_the_newest_stay(tmp_path: Path) -> None:
    """By number and by bytes; one that was damaged is none."""
    answers = Answers(tmp_path / "answers", number_max=3, bytes_max=10_000)
    made = [Answer(f"../task {n}", bytes(32), bytes([n]) * 50, 4, 0.5) for n in range(6)]
    for answer in made:
        answers.keep(answer)
    assert [None] * 3 + made[3:] == [answers.find(each.task_id) for each in made]
    large = Answer("large", bytes(32), bytes(9_900), 4, 0.5)
    answers.keep(large)
    assert large == answers.find("large")
    assert answers.find(made[5].task_id) is None
    (file,) = (tmp_path / "answers").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert answers.find("large") is None


def test_rows_that_do_not_fit_are_counted_by_column(ground: Ground) -> None:
    """Never by value; and read again only when the file has changed."""
    settings = ground.settings()
    table = settings.data["ward"].file
    table.write_text("\ufeff" + rows(10) + "4711,x,no\n4711,a,maybe\n,a,no\nnan,a,no\n")
    counts = Counts()
    count = counts.of(settings.data["ward"])
    assert (count.rows, count.classes) == (10, {"no": 5, "yes": 5})
    assert count.dropped == {
        "ward: is none of the schema's values": 1,
        "ill: is none of the schema's classes": 1,
        "age: is missing": 1,
        "age: is not finite": 1,
    }
    assert "4711" not in str(count.warnings)
    assert count is counts.of(settings.data["ward"])
    table.write_text(rows(12))
    assert counts.of(settings.data["ward"]).rows == 12


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (b"age,ward,ill\n", "there are no rows"),
        (b"age,ward,ill\n4711,x,no\n", "no row fits"),
        (b"age,ill\n1,no\n", "column ward is missing"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"", "is missing"),
    ],
    ids=["empty", "nothing fits", "column", "binary", "no header"],
)
def test_table_without_rows_is_refused_without_quoting_it(
    ground: Ground, table: bytes, problem: str
) -> None:
    """The reason goes to the server, so it names columns only."""
    settings = ground.settings()
    settings.data["ward"].file.write_bytes(table)
    with pytest.raises(AegisError) as refusal:
        Counts().of(settings.data["ward"])
    assert refusal.value.reason == "DATASET_ROWS_INVALID"
    assert problem in refusal.value.message
    assert "4711" not in refusal.value.message


def test_application_reads_the_table_once(ground: Ground) -> None:
    """From round to round the rows are the same object, until the file is another."""
    settings = ground.settings()
    data = settings.data["ward"]
    config: dict[str, bool | int | float | str] = {
        "file": str(data.file),
        "schema": str(data.schema_file),
    }
    context = Context(1, 1, config, RecordDict(), {})
    first = rows_of(context)
    assert first.x.shape == (40, 3)
    assert first is rows_of(context)
    data.file.write_text(rows(50))
    assert len(rows_of(context)) == 50


def test_object_of_metrics_is_written_once(tmp_path: Path) -> None:
    """Whole or not at all, and never in another's place."""
    store = metrics.open_store(str(tmp_path / "figures"), "")
    assert store is not None
    key = metrics.key_of("run-1", "hospital-a", 3)
    store.put(key, metrics.encode({"steps": 4}))
    with pytest.raises(metrics.AlreadyThere):
        store.put(key, metrics.encode({"steps": 5}))
    assert json.loads((tmp_path / "figures" / key).read_text()) == {"steps": 4}
    assert [each.name for each in (tmp_path / "figures" / key).parent.iterdir()] == ["3.json"]
    assert metrics.open_store("", "") is None


@pytest.mark.parametrize("run_id", ["", "../../etc", "a/b", ".."])
def test_run_cannot_choose_a_path(run_id: str) -> None:
    """Its id comes from the server."""
    with pytest.raises(ValueError, match="no name"):
        metrics.key_of(run_id, "hospital-a", 1)


def test_auc_counts_pairs_in_order() -> None:
    """As the definition does, slowly; ties count half."""
    random = np.random.default_rng(1)
    found = random.integers(0, 6, 40).astype(np.float32)
    y = random.integers(0, 2, 40)
    pairs = [np.sign(a - b) for a in found[y == 1] for b in found[y == 0]]
    assert np.mean(np.array(pairs) + 1) / 2 == pytest.approx(scores.auc(found, y))
    with pytest.raises(ValueError, match="both classes"):
        scores.auc(found, np.zeros(40, dtype=np.int64))
