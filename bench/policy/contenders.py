"""The engines behind one face: load the files of `languages`, prepare questions, decide.

    from contenders import CONTENDERS

`load` is what is timed as loading, `prepare` is not timed at all (each engine gets questions in the
form it likes best), and `decide` is one call that a program would make. Libraries are imported by
the contender that needs them, so a machine without one runs the others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import import_module, resources
from pathlib import Path
from typing import Any, Protocol

from languages import cedar_request, rego_input
from questions import Request

from rules import ACTIONS


class Contender(Protocol):
    """One engine, empty until it is loaded."""

    def load(self, folder: Path) -> None:
        """Reads its rules from a folder of `languages.write_all`."""

    def prepare(self, request: Request) -> Any:
        """Returns a question as `decide` takes it."""

    def decide(self, prepared: Any) -> bool:
        """Says whether that is allowed."""


class Aegis:
    """`aegis_policy.Engine`, as anybody uses it without the server."""

    def __init__(self) -> None:
        self._make = import_module("aegis_policy").Engine.from_csv

    def load(self, folder: Path) -> None:
        self._engine = self._make((folder / "rules.csv").read_text())

    def prepare(self, request: Request) -> Mapping[str, str]:
        subject, domain, resource, action, _ = request
        return {"subject": subject, "domain": domain, "resource": resource, "action": action}

    def decide(self, prepared: Mapping[str, str]) -> bool:
        return bool(self._engine.decide(**prepared).allowed)


class PyCasbin:
    """A stock `Enforcer` on the model of Aegis.

    Its role manager for domains compares each name with every other while it has a matching
    function, and would not be done loading; without one its answers here are the same.
    """

    def __init__(self) -> None:
        self._casbin = import_module("casbin")
        self._persist = import_module("casbin.persist")
        self._matches = import_module("aegis_policy").matches

    def load(self, folder: Path) -> None:
        enforcer = self._empty(resources.files("aegis_policy").joinpath("model.conf").read_text())
        enforcer.add_function("resMatch", self._matches)
        enforcer.add_function("cond", lambda source, effect, attributes: source == "")
        enforcer.get_role_manager().matching_func = None
        persist, lines = self._persist, self._lines((folder / "rules.csv").read_text())

        class Adapter(persist.Adapter):
            def load_policy(self, model: Any) -> None:
                for line in lines:
                    persist.load_policy_line(line, model)

        enforcer.set_adapter(Adapter())
        enforcer.load_policy()
        self._enforcer = enforcer

    def _empty(self, text: str) -> Any:
        return self._casbin.Enforcer(self._casbin.Enforcer.new_model(text=text))

    def _lines(self, text: str) -> list[str]:
        return text.splitlines()

    def prepare(self, request: Request) -> tuple[object, ...]:
        return (*request[:4], {})

    def decide(self, prepared: tuple[object, ...]) -> bool:
        return bool(self._enforcer.enforce(*prepared))


class FastPyCasbin(PyCasbin):
    """`FastEnforcer`, which looks only at the rules of exactly the asked tenant and action.

    A rule with a wildcard there is invisible to it, a deny as well; so that its answers are right,
    each such rule is written out for every tenant and action.
    """

    def _empty(self, text: str) -> Any:
        library: Any = import_module("casbin.model")

        class FastModel(library.FastModel):  # type: ignore[misc]
            def add_def(self, section: str, key: str, value: Any) -> bool:
                # The library's returns nothing, and so no g2 would be read after g.
                super().add_def(section, key, value)
                return key in self.model.get(section, {})

        model = FastModel([1, 3])
        model.load_model_from_text(text)
        return self._casbin.FastEnforcer(model, cache_key_order=[1, 3])

    def _lines(self, text: str) -> list[str]:
        rows = [line.split(", ") for line in text.splitlines()]
        tenants = sorted({row[2] for row in rows if row[0] == "p"} - {"*"})
        lines = []
        for row in rows:
            if row[0] != "p":
                lines.append(", ".join(row))
                continue
            domains = tenants if row[2] == "*" else [row[2]]
            actions = ACTIONS if row[4] == "*" else [row[4]]
            lines += [
                ", ".join((*row[:2], domain, row[3], action, *row[5:]))
                for domain in domains
                for action in actions
            ]
        return lines


class Cedar:
    """Cedar in process, with parsed policies and entities."""

    def __init__(self) -> None:
        self._cedar = import_module("cedarpy")

    def load(self, folder: Path) -> None:
        self._policies = self._cedar.PolicySet.from_str((folder / "rules.cedar").read_text())
        entities = (folder / "entities.json").read_text()
        self._entities = self._cedar.Entities.from_json_str(entities)

    def prepare(self, request: Request) -> dict[str, object]:
        return cedar_request(request)

    def decide(self, prepared: dict[str, object]) -> bool:
        answer = self._cedar.is_authorized(prepared, self._policies, self._entities)
        return bool(answer.allowed)


class Rego:
    """Rego by rego-cpp, compiled to a bundle."""

    def __init__(self) -> None:
        self._rego = import_module("regopy")

    def load(self, folder: Path) -> None:
        self._interpreter = self._rego.Interpreter()
        self._interpreter.add_module("bench", (folder / "rules.rego").read_text())
        self._interpreter.add_data_json((folder / "data.json").read_text())
        self._bundle = self._interpreter.build("data.bench.allow")

    def prepare(self, request: Request) -> Any:
        return self._rego.Input(rego_input(request))

    def decide(self, prepared: Any) -> bool:
        self._interpreter.set_input(prepared)
        results = self._interpreter.query_bundle(self._bundle).results
        return bool(results and results[0].expressions == [True])


CONTENDERS: dict[str, Callable[[], Contender]] = {
    "aegis": Aegis,
    "pycasbin": PyCasbin,
    "fastenforcer": FastPyCasbin,
    "cedarpy": Cedar,
    "regopy": Rego,
}


def read_requests(folder: Path) -> list[Request]:
    """Returns the questions of a folder."""
    return [Request(*row) for row in json.loads((folder / "requests.json").read_text())]
