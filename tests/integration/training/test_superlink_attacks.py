"""What an attacker gets at the port of the sites, and on the loopback: nothing."""

from __future__ import annotations

import contextlib
import socket
import ssl
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.proto.control_pb2 import ListRunsRequest, StartRunRequest, StopRunRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
)
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from google.protobuf.message import Message
from tests.processes import Process, until
from tests.superlinks import Grounds, Site

from aegis_server.training.superlink.executing import acquire

APP = Path(__file__).parents[2] / "apps" / "quickstart"
PROTOBUF = {"content-type": "application/protobuf", "accept": "application/protobuf"}
MIB = 1024 * 1024


@dataclass
class Scene:
    """A SuperLink with a run that waits for its ServerApp, and those who are around it."""

    grounds: Grounds
    link: Process
    run_id: int
    site0: Site
    site1: Site

    def post(
        self, path: str, message: Message, headers: dict[str, str], site: Site | None
    ) -> httpx.Response:
        with httpx.Client(verify=self.grounds.trusting(site)) as client:
            return client.post(
                f"https://{self.link.address}{path}",
                content=message.SerializeToString(),
                headers=PROTOBUF | headers,
            )

    def raw(self, request: bytes, site: Site | None, *, alpn: list[str] | None = None) -> bytes:
        """Sends bytes over TLS and returns what comes back until the server closes."""
        host, port = self.link.address.split(":")
        context = self.grounds.trusting(site)
        if alpn:
            context.set_alpn_protocols(alpn)
        with (
            socket.create_connection((host, int(port)), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
                tls.sendall(request)
            answer = b""
            with contextlib.suppress(ConnectionResetError, TimeoutError, ssl.SSLError):
                while part := tls.recv(65536):
                    answer += part
            return answer

    def activate(self, key_of: Site, certificate_of: Site | None) -> httpx.Response:
        """What a SuperNode does first."""
        public = public_key(key_of)
        request = ActivateNodeRequest(public_key=public, heartbeat_interval=30)
        return self.post(
            "/v1/fleet/activate-node", request, key_of.identity_headers(), certificate_of
        )


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    grounds = Grounds(tmp_path_factory.mktemp("superlink"))
    site0, site1 = grounds.site("site0"), grounds.site("site1")
    link = grounds.start(AEGIS_FLOWER_BODY_MIB="2")
    try:
        with grounds.control(link) as control:
            run_id = control.start(build_fab_from_disk(APP), {})
        yield Scene(grounds, link, run_id, site0, site1)
        # After all of this the task is still there for who has the secret, and for nobody else.
        secret = (grounds.house / "executor.secret").read_bytes()
        mine = acquire(link.token_address, secret)
        assert mine is not None
        assert mine.run_id == run_id
        assert acquire(link.token_address, secret) is None
    finally:
        assert link.stop() == 0


def public_key(site: Site) -> bytes:
    return b64decode(site.identity_headers()["flwr-public-key"])


def wished(scene: Scene) -> dict[str, Message]:
    """What an attacker wants, and the route where a stock SuperLink gives it."""
    return {
        "/v1/control/list-runs": ListRunsRequest(),
        "/v1/control/stop-run": StopRunRequest(run_id=scene.run_id),
        "/v1/control/start-run": StartRunRequest(),
        "/v1/runtime/acquire-task": AcquireTaskRequest(supported_task_types=["flwr-serverapp"]),
        "/v1/fleet/register-node": RegisterNodeFleetRequest(public_key=public_key(scene.site1)),
    }


ROUTES = (
    "/v1/control/list-runs",
    "/v1/control/stop-run",
    "/v1/control/start-run",
    "/v1/runtime/acquire-task",
    "/v1/fleet/register-node",
)


def status(answer: bytes) -> int:
    """Returns the status of a raw HTTP answer; 0 when there was none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


@pytest.fixture(autouse=True)
def _nothing_came_of_it(scene: Scene) -> Iterator[None]:
    yield
    with scene.grounds.control(scene.link) as control:
        assert control.status(scene.run_id) == "pending"
        assert len(control.nodes()) == 2


@pytest.mark.parametrize("route", ROUTES)
def test_the_ca_file_alone_opens_nothing(scene: Scene, route: str) -> None:
    """With what was enough for a stock SuperLink there is not even a connection."""
    with pytest.raises((httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)):
        scene.post(route, wished(scene)[route], scene.site0.identity_headers(), None)


@pytest.mark.parametrize("route", ROUTES)
def test_a_certificate_of_another_authority_opens_nothing(
    scene: Scene, route: str, tmp_path: Path
) -> None:
    """The same name, signed by somebody else."""
    impostor = Grounds(tmp_path).site("site0")
    with pytest.raises((httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)):
        scene.post(route, wished(scene)[route], scene.site0.identity_headers(), impostor)


@pytest.mark.parametrize("route", ROUTES)
def test_an_enrolled_site_reaches_the_fleet_and_nothing_else(scene: Scene, route: str) -> None:
    """Its own certificate and key: it cannot list, stop, start or steal runs, nor add a node."""
    answer = scene.post(route, wished(scene)[route], scene.site1.identity_headers(), scene.site1)
    assert (answer.status_code, answer.json()) == (404, {"detail": "refused"})


@pytest.mark.parametrize(
    "target",
    [
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1/fleet/..%2fcontrol%2flist-runs",
        "/v1/fleet/..;/control/list-runs",
        "/v1/fleet/activate-node/../../control/list-runs",
        "/v1/fleet%2factivate-node",
        "/v1/fleet/%61ctivate-node",
        "//v1/fleet/activate-node",
        "/v1//fleet/activate-node",
        "/v1/fleet/activate-node/",
        "/v1/fleet/activate-node?x=/v1/control/list-runs",
        "/v1/fleet/activate-node#/v1/control/list-runs",
        "/V1/fleet/activate-node",
        "/v1/fleet/activate-node%00",
        "/v1/fleet/activate-node%0d%0aX: y",
        "/v1\\fleet\\activate-node",
        "https://127.0.0.1/v1/control/list-runs",
        "http://127.0.0.1/v1/fleet/activate-node",
        "*",
        "/",
        "/docs",
        "/openapi.json",
        "/health",
        "/v1/control/list-runs",
    ],
)
def test_no_spelling_of_a_path_leads_elsewhere(scene: Scene, target: str) -> None:
    """Only the ten routes, letter by letter."""
    headers = "".join(f"{k}: {v}\r\n" for k, v in scene.site1.identity_headers().items())
    request = (
        f"POST {target} HTTP/1.1\r\nHost: x\r\n{headers}"
        "content-type: application/protobuf\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )
    assert status(scene.raw(request.encode(), scene.site1)) in (400, 404)


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "post", "PRI"]
)
def test_no_method_but_post_is_heard(scene: Scene, method: str) -> None:
    """Not even one whose override header says POST."""
    request = (
        f"{method} /v1/fleet/activate-node HTTP/1.1\r\nHost: x\r\nX-HTTP-Method-Override: POST\r\n"
        "connection: close\r\ncontent-length: 0\r\n\r\n"
    )
    assert status(scene.raw(request.encode(), scene.site1)) in (400, 404)


def test_http_2_is_not_spoken(scene: Scene) -> None:
    """Neither by negotiation nor by prior knowledge: there is one parser in front of Flower."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    assert status(scene.raw(preface, scene.site1, alpn=["h2"])) in (400, 404)


def test_a_websocket_is_not_opened(scene: Scene) -> None:
    """An upgrade is a GET like any other."""
    request = (
        b"GET /v1/fleet/activate-node HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert status(scene.raw(request, scene.site1)) == 404


@pytest.mark.parametrize(
    "smuggling",
    [
        "content-length: 0\r\ncontent-length: 4\r\n",
        "content-length: 4\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: xchunked\r\n",
    ],
    ids=["two lengths", "length and chunks", "two codings", "unknown coding"],
)
def test_a_request_hidden_in_another_is_refused_as_well(scene: Scene, smuggling: str) -> None:
    """Whatever the lengths say, each request that is heard is looked at."""
    hidden = "POST /v1/control/list-runs HTTP/1.1\r\nHost: x\r\ncontent-length: 0\r\n\r\n"
    request = (
        f"POST /v1/fleet/activate-node HTTP/1.1\r\nHost: x\r\n{smuggling}\r\n0\r\n\r\n{hidden}"
    )
    answer = scene.raw(request.encode(), scene.site1)
    assert b" 200 " not in answer
    assert status(answer) >= 400


def test_the_second_request_of_a_connection_is_looked_at_too(scene: Scene) -> None:
    """A connection that was good once is not good for everything."""
    with httpx.Client(verify=scene.grounds.trusting(scene.site1)) as client:
        address = f"https://{scene.link.address}"
        first = client.post(
            f"{address}/v1/fleet/activate-node",
            content=ActivateNodeRequest(
                public_key=public_key(scene.site1), heartbeat_interval=30
            ).SerializeToString(),
            headers=PROTOBUF | scene.site1.identity_headers(),
        )
        second = client.post(f"{address}/v1/control/list-runs", headers=PROTOBUF)
    assert (first.status_code, second.status_code) == (200, 404)


def test_another_sites_node_key_needs_that_sites_certificate(scene: Scene) -> None:
    """A stolen node key, or a recorded signature, is worth nothing without the certificate."""
    assert scene.activate(scene.site0, scene.site1).status_code == 401


def test_a_certificate_needs_its_own_node_key(scene: Scene) -> None:
    """No key, an unknown one, and two at once."""
    request = ActivateNodeRequest(public_key=public_key(scene.site1), heartbeat_interval=30)
    route = "/v1/fleet/activate-node"
    stranger = scene.grounds.site("stranger", enrolled=False)
    assert scene.post(route, request, {}, scene.site1).status_code == 401
    assert scene.activate(stranger, scene.site1).status_code == 401
    both = [
        *scene.site1.identity_headers().items(),
        ("flwr-public-key", scene.site0.identity_headers()["flwr-public-key"]),
    ]
    with httpx.Client(verify=scene.grounds.trusting(scene.site1)) as client:
        answer = client.post(
            f"https://{scene.link.address}{route}",
            content=request.SerializeToString(),
            headers=[*PROTOBUF.items(), *both],
        )
    assert answer.status_code == 401


def test_a_participant_without_a_node_key_is_nobody(scene: Scene) -> None:
    """A certificate of the authority is not enough."""
    stranger = scene.grounds.site("late", enrolled=False)
    assert scene.activate(stranger, stranger).status_code == 401


def test_a_certificate_of_the_authority_for_anything_but_a_participant_is_nobody(
    scene: Scene,
) -> None:
    """user:site1 is not participant:site1."""
    user = scene.grounds.site("site1", path="user", enrolled=False)
    assert scene.activate(scene.site1, user).status_code == 401


def test_an_old_signature_is_refused(scene: Scene) -> None:
    """Flower's own check: a recorded one is good for five minutes, behind the same certificate."""
    old = scene.site1.identity_headers(datetime.now(UTC) - timedelta(minutes=10))
    request = ActivateNodeRequest(public_key=public_key(scene.site1), heartbeat_interval=30)
    answer = scene.post("/v1/fleet/activate-node", request, old, scene.site1)
    assert answer.status_code == 401


def node_id(scene: Scene, site: Site) -> int:
    with scene.grounds.control(scene.link) as control:
        return control.nodes()[public_key(site)]


def test_a_site_cannot_fetch_for_another_node(scene: Scene) -> None:
    """Its key is good for its own node."""
    request = PullMessagesRequest()
    request.node.node_id = node_id(scene, scene.site0)
    answer = scene.post(
        "/v1/fleet/pull-messages", request, scene.site1.identity_headers(), scene.site1
    )
    assert answer.status_code == 401


def test_a_site_cannot_answer_for_another_node(scene: Scene) -> None:
    """Flower does not compare who calls with who has sent; the door does."""
    request = PushMessagesRequest()
    request.node.node_id = node_id(scene, scene.site1)
    request.messages_list.add().metadata.src_node_id = node_id(scene, scene.site0)
    answer = scene.post(
        "/v1/fleet/push-messages", request, scene.site1.identity_headers(), scene.site1
    )
    assert (answer.status_code, answer.json()) == (401, {"detail": "refused"})


def test_a_large_body_is_refused_before_it_is_whole(scene: Scene) -> None:
    """By what it announces, and where it announces nothing by what has come."""
    headers = "".join(f"{k}: {v}\r\n" for k, v in scene.site1.identity_headers().items())
    head = f"POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\n{headers}"
    announced = f"{head}content-length: {1024 * MIB}\r\n\r\n"
    assert status(scene.raw(announced.encode(), scene.site1)) == 413
    chunk = b"100000\r\n" + b"x" * MIB + b"\r\n"
    streamed = f"{head}transfer-encoding: chunked\r\n\r\n".encode() + chunk * 3
    assert status(scene.raw(streamed, scene.site1)) == 413


def test_a_body_below_the_limit_comes_through(scene: Scene) -> None:
    """Flower answers it: the run has not begun."""
    request = PushObjectRequest(run_id=scene.run_id, object_content=b"x" * MIB)
    request.node.node_id = node_id(scene, scene.site1)
    answer = scene.post(
        "/v1/fleet/push-object", request, scene.site1.identity_headers(), scene.site1
    )
    assert answer.status_code not in (401, 404, 413)


def test_old_tls_is_refused(scene: Scene) -> None:
    """1.3 or nothing."""
    host, port = scene.link.address.split(":")
    context = scene.grounds.trusting(scene.site1)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(plain, server_hostname="localhost")


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("bearer", [None, "Bearer guess", "Basic eDp4"])
def test_the_loopback_asks_for_its_secrets(scene: Scene, route: str, bearer: str | None) -> None:
    """A program of this machine without them is an attacker like any other."""
    headers = PROTOBUF | scene.site1.identity_headers()
    if bearer is not None:
        headers["authorization"] = bearer
    answer = httpx.post(
        f"http://{scene.link.token_address}{route}",
        content=wished(scene)[route].SerializeToString(),
        headers=headers,
    )
    # The Fleet is not there at all: a node key alone is half of a site.
    assert answer.status_code == (404 if "fleet" in route else 401)


def test_secrets_and_state_are_this_users_alone(scene: Scene) -> None:
    """The house is closed, and nothing was written into anybody's home."""
    house = scene.grounds.house
    assert house.stat().st_mode & 0o077 == 0
    for name in ("control.secret", "executor.secret"):
        assert (house / name).stat().st_mode & 0o077 == 0


def test_the_right_pair_comes_in(scene: Scene) -> None:
    """Certificate, key and signature of one site."""
    answer = scene.activate(scene.site0, scene.site0)
    assert answer.status_code == 200
    assert ActivateNodeResponse.FromString(answer.content).node_id == node_id(scene, scene.site0)


def test_a_node_key_that_is_taken_away_ends_the_next_request(scene: Scene) -> None:
    """At once at the door, and soon in Flower's table; its owner comes back with another."""
    leaving = scene.grounds.site("leaving")
    file = scene.grounds.nodes / "leaving.pub"
    with scene.grounds.control(scene.link) as control:
        until(lambda: len(control.nodes()) == 3)
        assert scene.activate(leaving, leaving).status_code == 200
        key = file.read_bytes()
        file.unlink()
        assert scene.activate(leaving, leaving).status_code == 401
        until(lambda: len(control.nodes()) == 2)
        file.write_bytes(key)
        until(lambda: "leaving was used before" in scene.link.log.read_text())
        back = scene.grounds.site("leaving")
        until(lambda: len(control.nodes()) == 3)
        assert scene.activate(back, back).status_code == 200
        file.unlink()
        until(lambda: len(control.nodes()) == 2)


def test_one_node_key_under_two_names_is_nobodys(scene: Scene) -> None:
    """Neither the one nor the other: the updates would be anybody's."""
    twin = scene.grounds.site("twin")
    copy = scene.grounds.nodes / "other.pub"
    with scene.grounds.control(scene.link) as control:
        until(lambda: len(control.nodes()) == 3)
        copy.write_bytes((scene.grounds.nodes / "twin.pub").read_bytes())
        until(lambda: len(control.nodes()) == 2)
        assert scene.activate(twin, twin).status_code != 200
    copy.unlink()
    (scene.grounds.nodes / "twin.pub").unlink()
