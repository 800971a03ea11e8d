"""Flower's internals are as we use them: these fail first when a release moves one."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import version

import uvicorn
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.superlink.auth_plugin import ControlAuthnPlugin
from flwr.superlink.routers.control import middlewares
from flwr.supernode.fleet_http_client import FleetHttpClient

from aegis_server.training.superlink import internals
from aegis_server.training.superlink.fleet import ROUTES


def test_flower_is_the_release_all_of_this_was_tried_with() -> None:
    """1.41: the next one may have another transport."""
    assert version("flwr").startswith("1.41.")


def test_every_fleet_route_is_known_and_two_are_closed() -> None:
    """A new route is closed until somebody has looked at it; registration is ours alone."""
    fleet = {path for _, path in PROTOBUF_REQUEST_TYPES if path.startswith("/v1/fleet/")}
    assert fleet - ROUTES == {"/v1/fleet/register-node", "/v1/fleet/unregister-node"}
    assert fleet >= ROUTES


def test_flower_serves_nothing_outside_its_three_apis() -> None:
    """The inner port shows what is asked for a secret, and what tells nothing."""
    assert {path.split("/")[2] for _, path in PROTOBUF_REQUEST_TYPES} == {
        "fleet",
        "control",
        "runtime",
    }


def test_the_superlink_is_configured_with_these_fields_and_no_others() -> None:
    """A field we do not know may open what we mean to keep shut."""
    assert {field.name for field in fields(internals.SuperLinkLifespanConfig)} == {
        *("control_address", "health_server_address", "host", "port", "insecure"),
        *("certificates", "superexec_auth_secret", "authn_plugin", "event_log_plugin"),
        *("fleet_event_log_plugin", "enable_event_log", "artifact_provider"),
        *("enable_supernode_auth", "fleet_api_type", "fleet_api_address", "simulation"),
        *("ssl_ca_certfile", "ssl_certfile", "ssl_keyfile", "database", "isolation"),
        "runtime_dependency_install",
    }


def test_control_is_asked_for_a_token_everywhere_but_where_tokens_are_given() -> None:
    """Those three answer nothing with our plugin: it gives no tokens."""
    assert {path for _, path in middlewares.CONTROL_AUTH_ROUTE_KEYS} == {
        "/v1/control/get-login-details",
        "/v1/control/get-auth-tokens",
        "/v1/control/refresh-auth-tokens",
    }
    assert ControlAuthnPlugin.__abstractmethods__ == {
        *("__init__", "get_login_details", "get_auth_tokens", "refresh_tokens"),
        "validate_tokens_in_metadata",
    }


def test_a_client_takes_the_tls_context_it_is_given() -> None:
    """What the launcher of a SuperNode adds a certificate to."""
    assert "verify" in inspect.signature(ProtobufClient.__init__).parameters
    assert FleetHttpClient.__init__ is ProtobufClient.__init__
    assert list(inspect.signature(FleetHttpClient.GetFab).parameters) == ["self", "request"]


def test_uvicorn_hands_its_protocol_a_state_for_each_request() -> None:
    """How the name of a certificate reaches the door, and no header could."""
    source = inspect.getsource(internals.H11Protocol)
    assert '"state": self.app_state.copy()' in source
    assert "app_state" in inspect.signature(internals.H11Protocol.__init__).parameters
    assert "ssl_context_factory" in inspect.signature(uvicorn.Config.__init__).parameters
    assert callable(uvicorn.Server.capture_signals)


def test_flower_phones_nobody_and_installs_nothing() -> None:
    """The switches are set before Flower reads them; asked of a process that has just started."""
    program = (
        "import os, sys, aegis_server.training.superlink.program as program\n"
        "from flwr.supercore import telemetry\n"
        "import flwr.superlink.cli.flower_superlink\n"
        "module = sys.modules['flwr.superlink.cli.flower_superlink']\n"
        "print(telemetry.FLWR_TELEMETRY_ENABLED, os.environ['FLWR_DISABLE_UPDATE_CHECK'],"
        " module._runtime_dependency_install_default())"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert told.stdout.split() == ["0", "1", "False"]
