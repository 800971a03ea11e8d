"""Joining at a server that lies: its words end up in a file of settings, so they are names only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.sites import Ground

from aegis.joining import SiteError, join
from aegis.jointoken import JoinToken
from aegis.v1 import participant_pb2 as pb
from aegis.v1 import participant_pb2_grpc


class Liar(participant_pb2_grpc.ParticipantServiceServicer):
    """Enrols whoever comes, with a good certificate and words of its own."""

    def __init__(self, ground: Ground, words: dict[str, Any]) -> None:
        self._answer = {
            "participant": "hospital-a",
            "certificate": (ground.folder / "site.crt").read_bytes(),
            "roots": (ground.folder / "roots.crt").read_bytes(),
            "address": "127.0.0.1:1",
            "trust_domain": "aegis.local",
            "datasets": ["ward"],
        } | words

    async def Enrol(self, request: pb.EnrolRequest, context: Any) -> pb.EnrolResponse:
        """Whatever the secret."""
        return pb.EnrolResponse(**self._answer)


async def joined(tmp_path: Path, words: dict[str, Any]) -> Path:
    ground = Ground.make(tmp_path)
    folder = tmp_path / "fresh"
    folder.mkdir(mode=0o700)
    (folder / "site.key").write_bytes((ground.folder / "site.key").read_bytes())
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    participant_pb2_grpc.add_ParticipantServiceServicer_to_server(Liar(ground, words), server)
    pair = ((ground.pki / "server.key").read_bytes(), (ground.pki / "server.crt").read_bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    await server.start()
    try:
        roots = (ground.pki / "ca.crt").read_bytes()
        await join(JoinToken(f"127.0.0.1:{port}", roots, bytes(32)).text(), folder)
    finally:
        await server.stop(0)
    return folder


async def test_honest_words_are_written_down(tmp_path: Path) -> None:
    """What the refusals below are compared with."""
    assert (await joined(tmp_path, {}) / "site.toml").is_file()


@pytest.mark.parametrize(
    "words",
    [
        {"datasets": ['ward\n[data.census]\nfile = "/etc/passwd"\npublic = true\n#']},
        {"datasets": ["../ward"]},
        {"address": "127.0.0.1"},
        {"address": "one two:1"},
        {"roots": b""},
        {"certificate": b"none"},
        {"trust_domain": "another.example"},
        {"participant": "hospital-b"},
    ],
    ids=[
        "settings",
        "path",
        "no port",
        "blank",
        "roots",
        "certificate",
        "domain",
        "name",
    ],
)
async def test_server_cannot_write_the_settings_of_a_site(
    tmp_path: Path, words: dict[str, Any]
) -> None:
    """Nothing is joined, and no settings are left."""
    with pytest.raises(SiteError, match="the server's"):
        await joined(tmp_path, words)
    assert not (tmp_path / "fresh" / "site.toml").exists()
