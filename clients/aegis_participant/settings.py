"""What a site is told: `site.toml` and what lies beside it, read once and checked as a whole.

site.toml            see docs/participants-site.md
site.key, site.crt   who the site is; roots.crt: whom it trusts as the server
schemas/NAME.json    the schema of each data set, as it was registered: what the site pins
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aegis.channel import Identity
from aegis_learning.pinning import app_digest, package_folder
from aegis_learning.schema import Schema, SchemaError
from aegis_participant.apps import BUILT_IN, App, built_in

# One run of the plan's defaults (epsilon 8 at delta 0.001) is 10.6 at 0.00001: a site that says
# nothing takes part in one such run, and not in two.
EPSILON_LIMIT = 12.0
DELTA = 1e-5
_AT_ONCE = 2
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_KNOWN = {
    "": {"server", "participant", "data", "privacy", "apps", "metrics", "workers"},
    "server": {"address"},
    "participant": {"name", "trust_domain"},
    "privacy": {"epsilon_limit", "delta"},
    "metrics": {"store", "share", "kms_key"},
    "workers": {"at_once"},
    "data.": {"file", "public", "epsilon_limit", "delta"},
    "apps.": {"module", "path", "sha256", "node_config", "run_config"},
}


class SettingsError(ValueError):
    """The folder is not usable; the message names every setting that is wrong."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """Rows of a site: a CSV file, the pinned schema, and what may be spent on them.

    `public` says that the rows are no secret, so that tasks without a mechanism and simulations
    are let through.
    """

    name: str
    file: Path
    schema_file: Path
    schema: Schema
    public: bool
    epsilon_limit: float
    delta: float


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one site. `store` is a folder, an s3:// address, or empty."""

    folder: Path
    address: str
    name: str
    trust_domain: str
    data: Mapping[str, DataSet]
    apps: Mapping[str, App]
    store: str
    share: bool
    kms_key: str
    at_once: int

    @property
    def identity(self) -> Identity:
        """Returns the files that say who the site is, and whom it trusts as the server."""
        return identity_in(self.folder)

    @classmethod
    def read(cls, folder: Path) -> Settings:
        """Reads DIR/site.toml; raises `SettingsError` with all problems at once."""
        file = folder / "site.toml"
        try:
            content = tomllib.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SettingsError(
                f"{file} is missing: join first, with `aegis participant join TOKEN --dir {folder}`"
            ) from None
        except (OSError, ValueError) as error:
            raise SettingsError(f"{file} cannot be read: {error}; correct that line") from error
        reader = _Reader(folder, content)
        settings = reader.settings()
        if reader.problems:
            raise SettingsError(f"{file}: " + "; ".join(reader.problems))
        return settings


def identity_in(folder: Path) -> Identity:
    """Returns the pair and the roots that joining wrote into a folder."""
    return Identity(folder / "site.crt", folder / "site.key", folder / "roots.crt")


class _Reader:
    """Collects what is wrong instead of stopping at the first."""

    def __init__(self, folder: Path, content: dict[str, Any]) -> None:
        self._folder = folder
        self._content = content
        self.problems: list[str] = []

    def settings(self) -> Settings:
        self._refuse_unknown("", self._content)
        server, participant = self._table("server"), self._table("participant")
        metrics, workers = self._table("metrics"), self._table("workers")
        address = self._text("server.address", server.get("address"))
        if address and not re.fullmatch(r"\S+:\d{1,5}", address):
            self._wrong("server.address", f"{address!r} is not host:port")
        name = self._text("participant.name", participant.get("name"))
        if name and not _NAME.fullmatch(name):
            self._wrong("participant.name", "is lower case letters, digits and dashes")
        settings = Settings(
            folder=self._folder,
            address=address,
            name=name,
            trust_domain=self._text(
                "participant.trust_domain", participant.get("trust_domain", "aegis.local")
            ),
            data=self._data(),
            apps=self._apps(),
            store=self._store(metrics.get("store", "")),
            share=self._truth("metrics.share", metrics.get("share", False)),
            kms_key=str(metrics.get("kms_key", "")),
            at_once=self._count("workers.at_once", workers.get("at_once", _AT_ONCE)),
        )
        self._identity(settings)
        return settings

    def _wrong(self, setting: str, problem: str) -> None:
        self.problems.append(f"{setting}: {problem}")

    def _refuse_unknown(self, kind: str, table: Mapping[str, Any], name: str = "") -> None:
        for key in sorted(table.keys() - _KNOWN[kind]):
            self._wrong(f"{name or kind}.{key}".lstrip("."), "is no setting; remove or correct it")

    def _table(self, name: str, kind: str | None = None) -> dict[str, Any]:
        found: Any = self._content
        for part in name.split("."):
            found = found.get(part, {}) if isinstance(found, dict) else found
        if not isinstance(found, dict):
            self._wrong(name, f"is a table; write [{name}] on a line of its own")
            return {}
        self._refuse_unknown(kind or name, found, name)
        return found

    def _text(self, setting: str, value: Any) -> str:
        if not isinstance(value, str) or not value.strip():
            self._wrong(setting, "is missing; write it in quotes, as the invitation said it")
            return ""
        return value

    def _truth(self, setting: str, value: Any) -> bool:
        if not isinstance(value, bool):
            self._wrong(setting, "is true or false, without quotes")
            return False
        return value

    def _count(self, setting: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 64:
            self._wrong(setting, "is a number from 1 to 64")
            return 1
        return value

    def _number(self, setting: str, value: Any, below: float) -> float:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not math.isfinite(value) or not 0 < value < below:
            self._wrong(setting, f"is a number above 0 and below {below:g}")
            return below / 2
        return float(value)

    def _data(self) -> dict[str, DataSet]:
        privacy = self._table("privacy")
        tables = self._content.get("data", {})
        if not isinstance(tables, dict) or not tables:
            self._wrong(
                "data",
                "no data set; add your rows: `aegis participant data add NAME FILE --dir "
                f"{self._folder}`",
            )
            return {}
        data: dict[str, DataSet] = {}
        files: dict[object, str] = {}
        for name in tables:
            each = self._dataset(name, privacy)
            if each is None:
                continue
            data[name] = each
            other = files.setdefault(_same(each.file), name)
            if other != name:
                # Two accounts for the same rows would double what may be spent on them.
                self._wrong(f"data.{name}.file", f"is the file of data.{other}; keep one of them")
        return data

    def _dataset(self, name: str, privacy: Mapping[str, Any]) -> DataSet | None:
        table = self._table(f"data.{name}", "data.")
        if not _NAME.fullmatch(name):
            self._wrong(f"data.{name}", "the name of a data set is lower case, digits and dashes")
        file = self._folder / self._text(f"data.{name}.file", table.get("file"))
        if table.get("file") and not file.is_file():
            self._wrong(f"data.{name}.file", f"{file} is no file; put the rows there")
        schema_file = self._folder / "schemas" / f"{name}.json"
        schema = self._schema(schema_file, name)
        limits = {
            key: self._number(
                f"data.{name}.{key}" if key in table else f"privacy.{key}",
                table.get(key, privacy.get(key, default)),
                below,
            )
            for key, default, below in (
                ("epsilon_limit", EPSILON_LIMIT, 1000.0),
                ("delta", DELTA, 0.1),
            )
        }
        public = self._truth(f"data.{name}.public", table.get("public", False))
        if schema is None:
            return None
        return DataSet(
            name, file, schema_file, schema, public, limits["epsilon_limit"], limits["delta"]
        )

    def _schema(self, file: Path, name: str) -> Schema | None:
        try:
            return Schema.from_json(json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            problem = f"{file} is missing; join again, or copy the registered schema there"
        except (OSError, ValueError, SchemaError) as error:
            problem = f"{file} is no schema ({error}); copy the registered one there"
        self._wrong(f"data.{name}", problem)
        return None

    def _apps(self) -> dict[str, App]:
        tables = self._content.get("apps", {})
        if not isinstance(tables, dict):
            self._wrong("apps", "is a table; write [apps.NAME]")
            return {}
        if not tables:
            mine = built_in()
            return {mine.name: mine}
        found = {name: self._app(name) for name in tables}
        return {name: each for name, each in found.items() if each is not None}

    def _app(self, name: str) -> App | None:
        table = self._table(f"apps.{name}", "apps.")
        if name == BUILT_IN:
            return self._shipped(table)
        module = self._text(f"apps.{name}.module", table.get("module"))
        if module and not _MODULE.fullmatch(module):
            self._wrong(f"apps.{name}.module", f"{module!r} is not package.module:name")
            return None
        path = self._folder / table["path"] if table.get("path") else None
        try:
            digest = app_digest(path or package_folder(module))
        except (OSError, ValueError) as error:
            self._wrong(f"apps.{name}", f"its code cannot be read ({error}); install it")
            return None
        self._pinned(name, table.get("sha256"), digest)
        configs = (table.get("node_config", {}), table.get("run_config", {}))
        return App(name, module, path, digest, *configs)

    def _shipped(self, table: Mapping[str, Any]) -> App:
        """Returns the application that ships, beside others; its digest is of all it is made of."""
        mine = built_in()
        for key in sorted(table.keys() & {"module", "path"}):
            self._wrong(f"apps.{BUILT_IN}.{key}", "is that of what ships; give yours another name")
        self._pinned(BUILT_IN, table.get("sha256", mine.sha256.hex()), mine.sha256)
        configs = (table.get("node_config", {}), table.get("run_config", {}))
        return App(mine.name, mine.module, mine.path, mine.sha256, *configs)

    def _pinned(self, name: str, pin: object, digest: bytes) -> None:
        if pin != digest.hex():
            self._wrong(
                f"apps.{name}.sha256",
                f"its files have {digest.hex()}; pin that if you have read and approved them",
            )

    def _store(self, value: Any) -> str:
        if not isinstance(value, str) or (value.startswith("s3:") and not value[5:].strip("/")):
            self._wrong("metrics.store", "is a folder or s3://bucket/prefix, in quotes")
            return ""
        if not value or value.startswith("s3://"):
            return value
        return str(self._folder / value)

    def _identity(self, settings: Settings) -> None:
        try:
            settings.identity.check()
        except FileNotFoundError as error:
            self._wrong("identity", f"{error.filename} is missing; join again with a new token")
        except (OSError, ValueError) as error:
            self._wrong("identity", f"{error}; join again with a new token")


def _same(file: Path) -> object:
    """Returns what is equal for one file, whatever it is called."""
    try:
        found = file.stat()
    except OSError:
        return file
    return found.st_dev, found.st_ino
