"""Who may start and stop runs on the inner port, and a client that may.

Flower's own Control API asks nobody who they are: any process of this machine could send code to
the sites. Ours wants a secret that lies in a file of this user.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from aegis_server.training.superlink.internals import (
    AccountInfo,
    ControlHttpClient,
    ListNodesRequest,
    ListRunsRequest,
    NoOpControlAuthnPlugin,
    ProtobufCall,
    ProtobufRequestContext,
    RegisterNodeRequest,
    RuntimeVersionHttpInterceptor,
    StartRunRequest,
    StopRunRequest,
    StreamLogsRequest,
    UnregisterNodeRequest,
    user_config_to_proto,
)

_GONE = "unregistered"


class SecretAuthn(NoOpControlAuthnPlugin):
    """Lets in who shows the secret as a bearer token, as Flower's only account."""

    def __init__(self, secret: str) -> None:
        super().__init__()
        self._secret = secret.encode()

    def validate_tokens_in_metadata(
        self, metadata: Sequence[tuple[str, str | bytes]]
    ) -> tuple[bool, AccountInfo | None]:
        """Returns the account for the one right token, and no account for anything else."""
        if len(metadata) != 1:
            return False, None
        token = metadata[0][1]
        shown = token.encode() if isinstance(token, str) else token
        if not hmac.compare_digest(shown, self._secret):
            return False, None
        valid: tuple[bool, AccountInfo | None] = super().validate_tokens_in_metadata(metadata)
        return valid

    def refresh_tokens(
        self, metadata: Sequence[tuple[str, str | bytes]]
    ) -> tuple[None, AccountInfo | None]:
        """Refuses: the secret is not renewed by who has it."""
        return None, None


class _Bearer:
    def __init__(self, secret: str) -> None:
        self._value = f"Bearer {secret}"

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> Any:
        context.request.headers["authorization"] = self._value
        return call_next(context)


class Control:
    """The Control API of a SuperLink on this machine."""

    def __init__(self, address: str, secret: str) -> None:
        self._client = ControlHttpClient.from_server_address(
            server_address=address,
            insecure=True,
            root_certificates=None,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="aegis"), _Bearer(secret)],
        )

    def start(self, application: bytes, config: Mapping[str, bool | int | float | str]) -> int:
        """Starts a run of an application (a FAB); returns its id, which is never 0.

        Raises RuntimeError when Flower refuses without a word, httpx.HTTPStatusError otherwise.
        """
        request = StartRunRequest()
        request.fab.content = application
        for key, value in user_config_to_proto(dict(config)).items():
            request.override_config[key].CopyFrom(value)
        run_id = int(self._client.StartRun(request).run_id)
        if run_id == 0:
            raise RuntimeError("the SuperLink does not start this application")
        return run_id

    def stop(self, run_id: int) -> bool:
        """Stops a run; returns whether it was running."""
        return bool(self._client.StopRun(StopRunRequest(run_id=run_id)).success)

    def status(self, run_id: int) -> str:
        """Returns e.g. `running` or `finished:completed`; empty for a run that is unknown."""
        found = self._client.ListRuns(ListRunsRequest(run_id=run_id)).run_dict
        if run_id not in found:
            return ""
        status = found[run_id].status
        return f"{status.status}:{status.sub_status}".rstrip(":")

    def logs(self, run_id: int) -> Iterator[str]:
        """Yields what the ServerApp of a run prints, until it ends."""
        for each in self._client.StreamLogs(StreamLogsRequest(run_id=run_id, after_timestamp=0.0)):
            yield each.log_output

    def nodes(self) -> dict[bytes, int]:
        """Returns the id of every registered node by its public key."""
        listed = self._client.ListNodes(ListNodesRequest()).nodes_info
        return {node.public_key: node.node_id for node in listed if node.status != _GONE}

    def online(self) -> set[int]:
        """Returns the nodes that are connected."""
        listed = self._client.ListNodes(ListNodesRequest()).nodes_info
        return {node.node_id for node in listed if node.status == "online"}

    def register_node(self, name: str, public_key: bytes) -> int:
        """Registers a SuperNode; returns its id."""
        request = RegisterNodeRequest(public_key=public_key, name=name)
        return int(self._client.RegisterNode(request).node_id)

    def unregister_node(self, node_id: int) -> None:
        """Forgets a SuperNode."""
        self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()
