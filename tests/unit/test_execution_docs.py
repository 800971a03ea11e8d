"""docs/execution.md says what the code does: its pictures, numbers, examples and tests."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import click
import pytest
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from aegis import dsse
from aegis.cli.main import app
from aegis.v1.envelope_pb2 import ActionRequest
from aegis.v1.execution_pb2 import Action
from aegis_executor.guards.numbers import Numbers
from aegis_executor.verification.terms import Defaults
from aegis_policy.obligations import obligation_of
from aegis_server.execution.states import FOLLOWS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "execution.md").read_text()


def section(heading: str) -> str:
    """A section, up to the next heading of its level."""
    _, found, rest = PAGE.partition(f"\n## {heading}\n")
    assert found, heading
    return rest.partition("\n## ")[0]


def test_picture_of_the_states_is_the_code():
    """Every arrow and no other."""
    drawn = set(re.findall(r"^  (\S+) --> (\S+)$", section("States"), re.MULTILINE))

    def name(state: int) -> str:
        return Action.State.Name(state).removeprefix("STATE_").replace("UNSPECIFIED", "[*]")

    assert drawn == {(name(a), name(b)) for a, follows in FOLLOWS.items() for b in follows}


def test_signing_example_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Copied out, with a key in its place."""
    (example,) = re.findall(r"```python\n(.*?)```", section("Signing"), re.DOTALL)
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "autopilot.key").write_bytes(pem)
    (tmp_path / "autopilot.key").chmod(0o600)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(example, "docs/execution.md", "exec"), names)
    payload, _ = dsse.verify(
        names["envelope"], dsse.REQUEST_TYPE, lambda _: (None, key.public_key())
    )
    assert ActionRequest.FromString(payload).issuer == "automation:autopilot"


def test_rules_of_the_page_oblige_to_what_it_says():
    """One of role:oncall, and then two of role:site-owners by their own keys."""
    (lines,) = re.findall(r"```\n(p, .*?)```", section("Approvals"), re.DOTALL)
    found = [obligation_of(line.split(", ")[4]) for line in lines.splitlines()]
    assert [tuple(each) for each in found if each] == [
        (1, "role:oncall", False, 1),
        (2, "role:site-owners", True, 2),
    ]


def test_numbers_of_the_guards_are_the_defaults():
    """In the order of the table."""
    numbers = Numbers()
    rows = [row.split(" | ") for row in section("Guards").splitlines() if row.count(" | ") == 2]
    told = [row[1] for row in rows if re.match(r"\d", row[1])]
    at_once, hourly = numbers.concurrent, numbers.hourly
    breakers, storm = numbers.breakers, numbers.storm
    assert told == [
        f"{at_once.target}, {at_once.namespace}, {at_once.everywhere}",
        f"{hourly.target}, {hourly.namespace}, {hourly.everywhere}",
        f"{numbers.cool_down_seconds:g} s",
        f"{numbers.attempts}",
        f"{numbers.relapse_seconds:g} s",
        f"{breakers.consecutive}",
        f"{breakers.share:.0%}, {breakers.outcomes_min}".replace("%", " %"),
        f"{breakers.open_seconds:g} s",
        f"{storm.share:.0%}, {storm.anomalous_min}".replace("%", " %"),
        f"{storm.rate_factor:g}, {storm.rate_seconds:g} s, {storm.anomalous_min}",
        f"{storm.quiet_seconds:g} s; {', '.join(map(str, storm.ramp))}",
        f"{storm.blind_seconds:g} s",
    ]


def test_numbers_of_the_verification_are_the_defaults():
    """Those that the sentences name."""
    text, defaults = section("Whether it helped"), Defaults()
    assert f"for {defaults.stabilise_seconds:g} s after" in text
    assert f"every {defaults.every_seconds:g} s" in text
    assert f"window of {defaults.window_seconds:g} s" in text
    assert f"{defaults.failures} looks that showed harm" in text
    assert defaults.successes == 2
    assert "two good looks in a row" in text


COMMANDS = [
    line.partition(" #")[0]
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("aegis ")
]


@pytest.mark.parametrize("line", COMMANDS)
def test_command_of_the_page_is_one(line: str):
    """Its words and options are those of the CLI; nothing is called."""
    command, words = typer.main.get_command(app), shlex.split(line)[1:]
    context: click.Context | None = None
    while isinstance(command, click.Group):
        context = command.make_context("aegis", list(words), parent=context)
        name, command, words = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        assert command is not None, name
    command.make_context("aegis", list(words), parent=context)


def test_tests_that_the_page_names_exist():
    """Below "Who can forge what", link and name."""
    named = re.findall(r"\[([a-z ]+)\]\(\.\./(tests/\S+?\.py)\)", section("Who can forge what"))
    assert len(named) >= 9
    for words, path in named:
        tree = ast.parse((ROOT / path).read_text())
        functions = {each.name for each in ast.walk(tree) if hasattr(each, "name")}
        assert f"test_{words.replace(' ', '_')}" in functions


def test_every_test_of_forgery_that_refuses_is_named():
    """The page leaves no row out."""
    named = set(re.findall(r"\[([a-z ]+)\]\(\.\./tests/unit", section("Who can forge what")))
    text = (ROOT / "tests/unit/executor/test_forgery.py").read_text()
    tests = {each.replace("_", " ") for each in re.findall(r"^def test_(stolen\w+)", text, re.M)}
    # The counter-test: what a stolen policy key is good for.
    assert tests - named == {"stolen policy key allows what was really asked"}
