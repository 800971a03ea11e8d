"""Asking Prometheus: a real local server that answers in the shapes that were recorded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from aegis_executor.guards.dependencies import Dependency
from aegis_executor.verification.prometheus import Prometheus, Rule, Unanswered

RULES = {
    "groups": [
        {
            "name": "web",
            "file": "/etc/prometheus/rules.yml",
            "interval": 15,
            "limit": 0,
            "evaluationTime": 0.000312,
            "lastEvaluation": "2026-05-01T12:00:07.123456789Z",
            "rules": [
                {
                    "state": "firing",
                    "name": "HighErrors",
                    "query": "sum(increase(errors_total[10m])) > 5",
                    "duration": 60,
                    "keepFiringFor": 0,
                    "labels": {"severity": "page"},
                    "annotations": {},
                    "alerts": [
                        {
                            "labels": {"alertname": "HighErrors", "severity": "page"},
                            "annotations": {},
                            "state": "firing",
                            "activeAt": "2026-05-01T11:58:00.5Z",
                            "value": "1.2e+01",
                        },
                        {
                            "labels": {"alertname": "HighErrors", "severity": "old"},
                            "annotations": {},
                            "state": "inactive",
                            "activeAt": "2026-05-01T11:58:00.5Z",
                            "value": "0e+00",
                        },
                    ],
                    "health": "ok",
                    "evaluationTime": 0.000181,
                    "lastEvaluation": "2026-05-01T12:00:07.123456789Z",
                    "type": "alerting",
                },
                {
                    "name": "HighErrors",
                    "query": "sum(errors_total)",
                    "labels": {},
                    "health": "ok",
                    "lastEvaluation": "2026-05-01T12:00:07Z",
                    "type": "recording",
                },
                {
                    "state": "inactive",
                    "name": "Another",
                    "query": "up == 0",
                    "duration": 0,
                    "labels": {},
                    "annotations": {},
                    "alerts": [],
                    "health": "ok",
                    "lastEvaluation": "2026-05-01T12:00:07Z",
                    "type": "alerting",
                },
            ],
        }
    ]
}


def vector(*values: str) -> dict[str, Any]:
    samples = [
        {"metric": {"pod": f"p{n}"}, "value": [1777636807.1, v]} for n, v in enumerate(values)
    ]
    return {"resultType": "vector", "result": samples}


class Answers:
    """A server of Prometheus' paths; tells what it was asked."""

    def __init__(self) -> None:
        self.status, self.body, self.seconds = 200, b"", 0.0
        self.asked: list[tuple[str, dict[str, list[str]], str | None]] = []
        self.hurry = threading.Event()
        answers = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                token = self.headers.get("Authorization")
                answers.asked.append((parts.path, parse_qs(parts.query), token))
                answers.hurry.wait(answers.seconds)
                self.send_response(answers.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answers.body)))
                self.end_headers()
                with contextlib.suppress(BrokenPipeError):  # who asks stops reading at a limit
                    self.wfile.write(answers.body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def say(self, data: Any, **more: Any) -> None:
        self.body = json.dumps({"status": "success", "data": data, **more}).encode()


@pytest.fixture
def answers() -> Iterator[Answers]:
    served = Answers()
    thread = threading.Thread(target=served.server.serve_forever, args=(0.01,))
    thread.start()
    yield served
    served.hurry.set()
    served.server.shutdown()
    thread.join()
    served.server.server_close()


def now() -> datetime:
    return datetime.now(UTC)


def patient() -> Dependency:
    """Asks again at once, whatever went before."""
    return Dependency("prometheus", clock=now, first_seconds=0)


@pytest.fixture
async def prometheus(answers: Answers) -> AsyncIterator[Prometheus]:
    asked = Prometheus(f"{answers.url}/prefix/", dependency=patient(), timeout_seconds=1.0)
    yield asked
    await asked.close()


async def why(prometheus: Prometheus) -> str:
    answer = await prometheus.value("up")
    assert isinstance(answer, Unanswered), answer
    return answer.why


@pytest.mark.parametrize(
    "data", [vector("0.25"), {"resultType": "scalar", "result": [1777636807.1, "0.25"]}]
)
async def test_one_value_is_an_answer(answers: Answers, prometheus: Prometheus, data: Any):
    """A vector of one, or a scalar, of the very query that was asked."""
    answers.say(data)
    assert await prometheus.value('sum(rate(x[5m])) / 2 > bool "a&b"') == 0.25
    path, query, token = answers.asked[0]
    assert path == "/prefix/api/v1/query"
    assert (query["query"], token) == (['sum(rate(x[5m])) / 2 > bool "a&b"'], None)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (vector(), "0 values"),
        (vector("1", "2"), "2 values"),
        (vector("NaN"), "NaN"),
        (vector("+Inf"), "+Inf"),
        ({"resultType": "matrix", "result": []}, "a matrix"),
        ({"resultType": "vector", "result": [{"metric": {}, "histogram": []}]}, "plain number"),
        ({"resultType": "vector", "result": [{"metric": {}, "value": [1]}]}, "unknown form"),
        (None, "unknown form"),
    ],
)
async def test_what_is_not_one_number_is_no_answer(
    answers: Answers, prometheus: Prometheus, data: Any, told: str
):
    """Empty, several, not a number, infinite, of another type: nobody can tell."""
    answers.say(data)
    assert told in await why(prometheus)


async def test_warning_that_something_is_missing_is_no_answer(
    answers: Answers, prometheus: Prometheus
):
    """Half of the stores is half of the truth."""
    answers.say(vector("1"), warnings=["store 2 did not answer"])
    assert "warns" in await why(prometheus)


async def test_error_tells_its_kind_and_not_its_words(answers: Answers, prometheus: Prometheus):
    """Prometheus quotes the query in them."""
    answers.status = 400
    answers.body = b'{"status":"error","errorType":"bad_data","error":"parse error: secret"}'
    assert await why(prometheus) == "Prometheus answered 400 bad_data"


async def test_proxy_that_answers_is_not_prometheus(answers: Answers, prometheus: Prometheus):
    """A login page with status 200 says nothing about the world."""
    answers.body = b"<html>"
    assert "unknown form" in await why(prometheus)
    answers.status, answers.body = 503, b"<html>"
    assert await why(prometheus) == "Prometheus answered 503"


async def test_answer_that_is_too_large_is_no_answer(answers: Answers, prometheus: Prometheus):
    """Nobody fills the executor's memory."""
    answers.body = b" " * (4 * 1024 * 1024 + 1)
    assert "4 MiB" in await why(prometheus)


async def test_answer_that_takes_too_long_is_no_answer(answers: Answers, prometheus: Prometheus):
    """The wait is bounded."""
    answers.seconds = 30
    async with asyncio.timeout(5):
        assert "longer than 1 s" in await why(prometheus)


async def test_prometheus_that_is_not_there_is_no_answer(prometheus: Prometheus):
    """Connection refused is no success."""
    nowhere = Prometheus("http://127.0.0.1:1", dependency=patient())
    answer = await nowhere.value("up")
    await nowhere.close()
    assert isinstance(answer, Unanswered)
    assert "cannot be reached" in answer.why


async def test_prometheus_that_was_away_is_left_alone_for_a_while(answers: Answers):
    """A look every few seconds must not become a storm of its own; it is shown as a breaker."""
    dependency = Dependency("prometheus", clock=now, first_seconds=60)
    nowhere = Prometheus("http://127.0.0.1:1", dependency=dependency)
    assert "cannot be reached" in await why(nowhere)
    assert "left alone" in await why(nowhere)
    assert dependency.breaker().name == "dependency prometheus"
    await nowhere.close()


async def test_rules_of_an_alert_with_what_is_active(answers: Answers, prometheus: Prometheus):
    """Only alerting rules of that name, even from one too old to filter by itself."""
    answers.say(RULES)
    found = await prometheus.rules("HighErrors")
    assert found == [
        Rule(
            name="HighErrors",
            labels={"severity": "page"},
            healthy=True,
            evaluated_at=datetime(2026, 5, 1, 12, 0, 7, 123456, UTC),
            active=[{"alertname": "HighErrors", "severity": "page"}],
        )
    ]
    path, query, _ = answers.asked[0]
    assert path == "/prefix/api/v1/rules"
    assert query == {"type": ["alert"], "rule_name[]": ["HighErrors"]}


async def test_rules_in_an_unknown_form_are_no_answer(answers: Answers, prometheus: Prometheus):
    """An alert nobody can read is not gone."""
    answers.say({"groups": [{"rules": [{"name": "HighErrors", "alerts": [{}]}]}]})
    assert isinstance(await prometheus.rules("HighErrors"), Unanswered)


async def test_token_is_read_for_every_question(answers: Answers, tmp_path: Path):
    """Such tokens are changed while we run; a missing one is no answer."""
    file = tmp_path / "token"
    prometheus = Prometheus(answers.url, dependency=patient(), token_file=file)
    assert "token cannot be read" in await why(prometheus)
    answers.say(vector("1"))
    for token in ("one", "two"):
        file.write_text(f"{token}\n")
        assert await prometheus.value("up") == 1.0
    await prometheus.close()
    assert [token for _, _, token in answers.asked] == ["Bearer one", "Bearer two"]
