"""The guards' file: what is unknown or impossible fails the start, with the key's name."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from aegis_executor.guards.numbers import Numbers, NumbersError

EVERYTHING = """
cool_down_seconds = 60
relapse_seconds = 120
attempts = 2
memory_seconds = 7200

[concurrent]
target = 1
namespace = 1
global = 2

[hourly]
target = 1
namespace = 2
global = 3

[storm]
share = 0.5
anomalous_min = 2
quiet_seconds = 60
ramp_seconds = 30
look_seconds = 1
grace_seconds = 10
blind_seconds = 5
ramp = [2, 3]

[breakers]
consecutive = 3
share = 0.5
outcomes_min = 4
window_seconds = 600
open_seconds = 60

[namespaces.shop]
concurrent = 1
hourly = 1
attempts = 1
cool_down_seconds = 600
relapse_seconds = 600

[[windows]]
name = "night"
namespaces = ["shop"]
days = ["mon"]
from = "22:00"
to = "06:00"
zone = "Europe/Berlin"

[[freezes]]
name = "sale"
from = "00:00"
to = "00:00"
"""


def test_defaults_are_those_of_the_specification():
    """As execution.md says them."""
    numbers = Numbers.of_table({})
    assert numbers == Numbers()
    assert (numbers.concurrent.target, numbers.concurrent.namespace) == (1, 2)
    assert numbers.concurrent.everywhere == 5
    assert (numbers.hourly.target, numbers.hourly.namespace, numbers.hourly.everywhere) == (
        3,
        10,
        30,
    )
    assert (numbers.cool_down_seconds, numbers.relapse_seconds, numbers.attempts) == (600, 3600, 3)
    assert (numbers.storm.share, numbers.storm.quiet_seconds, numbers.storm.ramp) == (
        0.3,
        300,
        (1, 2, 4),
    )
    assert (numbers.breakers.consecutive, numbers.breakers.share) == (2, 0.2)
    assert (numbers.breakers.outcomes_min, numbers.breakers.window_seconds) == (5, 3600)


def test_every_key_is_read(tmp_path: Path):
    """None of them is only accepted: each arrives in a number that is not the default."""
    file = tmp_path / "guards.toml"
    file.write_text(EVERYTHING)
    numbers = Numbers.of_file(file)
    assert numbers.hourly.everywhere == 3
    assert numbers.storm.ramp == (2, 3)
    assert numbers.of("shop").attempts == 1
    assert numbers.of("demo").attempts == 2
    assert (numbers.windows[0].name, numbers.freezes[0].name) == ("night", "sale")
    told, plain = tomllib.loads(EVERYTHING), Numbers()
    for table in ("concurrent", "hourly", "storm", "breakers"):
        for key in told[table]:
            name = "everywhere" if key == "global" else key
            read = getattr(getattr(numbers, table), name)
            assert read == (tuple(told[table][key]) if key == "ramp" else told[table][key])
            assert key == "target" or read != getattr(getattr(plain, table), name)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("budgets = 3", "budgets is no key"),
        ("[hourly]\ntargets = 3", "hourly.targets is no key"),
        ("[hourly]\neverywhere = 3", "hourly.everywhere is no key"),
        ("[storm]\nshares = 3", "storm.shares is no key"),
        ("[namespaces.demo]\nbreakers = 3", "namespaces.demo.breakers is no key"),
        ("attempts = 0", "attempts must be from 1"),
        ("attempts = -1", "attempts must be from 1"),
        ("attempts = 2.5", "attempts must be a whole number"),
        ("attempts = true", "attempts must be a whole number"),
        ('attempts = "3"', "attempts must be a whole number"),
        ("cool_down_seconds = nan", "cool_down_seconds must be a number"),
        ("cool_down_seconds = inf", "cool_down_seconds must be a number"),
        ("cool_down_seconds = -1", "cool_down_seconds must be from 0"),
        ("concurrent = 3", "concurrent must be a table"),
        ("[concurrent]\ntarget = 2", "concurrent.target must be from 1 to 1"),
        ("[concurrent]\nglobal = 1", "concurrent.global must not fall"),
        ("[hourly]\ntarget = 11", "hourly.global must not fall"),
        ("[storm]\nshare = 0", "storm.share must be from 0.01"),
        ("[storm]\nshare = 1.5", "storm.share must be from 0.01"),
        ("[storm]\nramp = []", "storm.ramp"),
        ("[storm]\nramp = [2, 1]", "storm.ramp"),
        ("[storm]\nramp = [0, 1]", "storm.ramp"),
        ("[storm]\nblind_seconds = 6", "storm.blind_seconds"),
        ("[breakers]\nconsecutive = 0", "breakers.consecutive"),
        ("memory_seconds = 3600\n[breakers]\nopen_seconds = 4000", "breakers.open_seconds"),
        ("memory_seconds = 3600\n[namespaces.a]\nrelapse_seconds = 4000", "namespaces.a.relapse"),
        ("windows = 3", "windows must be a list"),
        ('[[windows]]\nfrom="01:00"\nto="02:00"', r"windows\[1\].name"),
        ('[[windows]]\nname="w"\nfrom="1:00"\nto="02:00"', r"windows\[1\].from"),
        ('[[windows]]\nname="w"\nfrom="01:00"', r"windows\[1\].to"),
        ('[[freezes]]\nname="w"\nfrom="01:00"\nto="24:00"', r"freezes\[1\].to"),
        ('[[windows]]\nname="w"\nfrom="01:00"\nto="02:00"\ndays=["Montag"]', r"windows\[1\].days"),
        ('[[windows]]\nname="w"\nfrom="01:00"\nto="02:00"\ndays=[]', r"windows\[1\].days"),
        ('[[windows]]\nname="w"\nfrom="01:00"\nto="02:00"\nzone="Mars/Phobos"', r"zone: Mars"),
        ('[[windows]]\nname="w"\nfrom="01:00"\nto="02:00"\nzone="../etc"', r"zone: ../etc"),
        ('[[windows]]\nname="w"\nfrom="01:00"\nto="02:00"\ncron="* * * * *"', r"\.cron is no key"),
        ("attempts = ", "guards.toml"),
    ],
)
def test_wrong_key_is_named(tmp_path: Path, text: str, named: str):
    """A key that nothing reads is a guard nobody has."""
    file = tmp_path / "guards.toml"
    file.write_text(text)
    with pytest.raises(NumbersError, match=named):
        Numbers.of_file(file)


def test_file_that_is_not_there_is_no_empty_file(tmp_path: Path):
    """Defaults are for who names no file."""
    with pytest.raises(NumbersError, match=r"nowhere\.toml"):
        Numbers.of_file(tmp_path / "nowhere.toml")


def test_documented_file_is_read_and_is_the_default():
    """What operations.md shows can be copied; but for its examples it changes nothing."""
    page = Path(__file__).resolve().parents[4] / "docs" / "operations.md"
    (text,) = re.findall(r"```toml\n(cool_down_seconds.*?)```", page.read_text(), re.DOTALL)
    numbers = Numbers.of_table(tomllib.loads(text))
    assert numbers == replace(
        Numbers(), namespaces=numbers.namespaces, windows=numbers.windows, freezes=numbers.freezes
    )
    assert numbers.namespaces.keys() == {"shop"}
