"""A control plane and sites that are programs of their own, by the commands people type."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer

from aegis.local.state import server_address
from aegis_learning.datasets import load

DATASET = "breast-cancer"
_WITH_REVIEW = "no-run-without-review"
_SECONDS = 120.0
_RUN_SECONDS = 600.0


class House:
    """`aegis up` and some sites with a share of the rows each. Use it as a context."""

    def __init__(self, folder: Path, sites: int) -> None:
        self._folder = folder
        self._home = folder / "home"
        self._names = [f"hospital-{number + 1}" for number in range(sites)]
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> House:
        try:
            self._start("up", "--listen", "127.0.0.1:0")
            _until(lambda: server_address(self._home) is not None, "aegis up did not come up")
            # The baseline lets nobody train real sites without review.
            self._say("policy", "remove", _WITH_REVIEW, "--reason", "measuring")
            for number, name in enumerate(self._names):
                self._site(number, name)
            _until(self._all_connected, "the sites did not come")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            process.wait(60)

    def rounds(self, rounds: int, *options: str) -> list[float]:
        """Trains; returns the seconds from each stored round to the next."""
        started = self._ask(
            *("train", "start", "--no-watch", "--sites", "enrolled", "--rounds", str(rounds)),
            *("--dataset", DATASET, "--participants", str(len(self._names))),
            *("--min-participants", str(len(self._names)), *options),
        )
        run_id = started["run_id"]
        end = time.monotonic() + _RUN_SECONDS
        while time.monotonic() < end:
            run = self._ask("train", "show", run_id)
            run = run.get("run", run)
            if run["state"] not in ("STATE_STARTING", "STATE_RUNNING"):
                break
            time.sleep(0.5)
        if run["state"] != "STATE_COMPLETED":
            raise RuntimeError(f"the run has not come to its end: {run}")
        times = [datetime.fromisoformat(each["complete_time"]) for each in run["rounds"]]
        return [(b - a).total_seconds() for a, b in pairwise(times)]

    def _site(self, number: int, name: str) -> None:
        token, folder = self._folder / f"{name}.token", self._folder / name
        self._ask("participant", "invite", name, "--dataset", f"{DATASET}=500", "--out", str(token))
        joining = ("participant", "join", "-", "--dir", str(folder))
        self._ask(*joining, text=token.read_text())
        rows = self._folder / f"{name}.csv"
        _write_rows(rows, number, len(self._names))
        self._ask("participant", "data", "add", DATASET, str(rows), "--dir", str(folder))
        self._start("participant", "run", "--dir", str(folder))

    def _all_connected(self) -> bool:
        listed = self._ask("participant", "list")
        return sum(bool(each.get("connected")) for each in listed) == len(self._names)

    def _ask(self, *arguments: str, text: str = "") -> Any:
        return json.loads(self._say(*arguments, "--output", "json", text=text))

    def _say(self, *arguments: str, text: str = "") -> str:
        done = subprocess.run(
            self._command(*arguments),
            input=text,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def _command(self, *arguments: str) -> list[str]:
        program = "from aegis.cli.main import main; main()"
        return [sys.executable, "-c", program, "--home", str(self._home), *arguments]

    def _start(self, *arguments: str) -> None:
        log = self._folder / f"{len(self._processes)}.log"
        with log.open("ab") as output:
            self._processes.append(
                subprocess.Popen(
                    self._command(*arguments),
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                    stdout=output,
                    stderr=output,
                )
            )


def _write_rows(file: Path, number: int, of: int) -> None:
    x, y = load_breast_cancer(return_X_y=True)
    schema = load(DATASET).schema
    low = np.array([feature.low for feature in schema.features])
    high = np.array([feature.high for feature in schema.features])
    with file.open("w", newline="") as output:
        table = csv.writer(output)
        table.writerow([*(feature.name for feature in schema.features), schema.label])
        for row, label in list(zip(x, y, strict=True))[number::of]:
            table.writerow([*np.clip(row, low, high), schema.classes[label]])


def _until(true: Any, message: str) -> None:
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        if true():
            return
        time.sleep(0.2)
    raise RuntimeError(message)
