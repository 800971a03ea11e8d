"""What a participant may write as its metrics, and what is not believed."""

from __future__ import annotations

import json

import pytest

from aegis_server.training.metrics.reading import Unusable, object_name, parse


def test_numbers_by_name_are_read():
    """Whole ones and others."""
    assert parse(b'{"loss": 0.5, "steps": 3, "site-auc": -1e-3}') == {
        "loss": 0.5,
        "steps": 3.0,
        "site-auc": -0.001,
    }
    assert parse(b"{}") == {}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[1]",
        b"1",
        b'{"loss": NaN}',
        b'{"loss": Infinity}',
        b'{"loss": 1e999}',
        b'{"loss": true}',
        b'{"loss": null}',
        b'{"loss": "0.5"}',
        b'{"loss": [0.5]}',
        b'{"loss": {"of": 1}}',
        b'{"Loss": 1}',
        b'{"": 1}',
        b'{"l\\u0000": 1}',
        b'{"../x": 1}',
        b'{"loss": 1',
        b'{"loss": ' + b"9" * 400 + b"}",
        b'{"loss": ' + b"9" * 5000 + b"}",
        b"[" * 10_000,
        json.dumps({f"n{number}": number for number in range(65)}).encode(),
        json.dumps({"n" * 65: 1}).encode(),
        b'{"loss": 1}' + b" " * 16_384,
    ],
    ids=range(23),
)
def test_anything_else_is_not_used(data: bytes):
    """Neither as it is nor in part."""
    with pytest.raises(Unusable) as refused:
        parse(data)
    assert str(refused.value).isprintable()


def test_object_of_a_round_has_one_writer():
    """Its name says who."""
    assert object_name("run-1", "site-2", 3) == "run-1/site-2/3.json"
