"""Which node key is whose: a file for each participant, read whenever it matters.

Flower knows a SuperNode by its public key alone. Ours must be the key of the participant that the
certificate names, so the files say who has which, and a file that is gone shuts its owner out with
the next request.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from aegis_server.training.superlink.control import Control
from aegis_server.training.superlink.internals import HTTPStatusError, public_key_to_bytes

log = logging.getLogger(__name__)

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_KEY_BYTES_MAX = 4096


class NodeKeys:
    """The public keys of a folder, one `NAME.pub` a participant."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, participant: str) -> bytes | None:
        """Returns the key as Flower sends it, or None where there is none that can be used."""
        if _NAME.fullmatch(participant) is None:
            return None
        try:
            with (self._folder / f"{participant}.pub").open("rb") as file:
                key = load_ssh_public_key(file.read(_KEY_BYTES_MAX))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, UnsupportedAlgorithm) as error:
            log.warning("the node key of %s cannot be read: %s", participant, type(error).__name__)
            return None
        if not isinstance(key, ec.EllipticCurvePublicKey):
            log.warning("the node key of %s is not on a NIST curve", participant)
            return None
        return bytes(public_key_to_bytes(key))

    def all(self) -> dict[str, bytes]:
        """Returns every participant's key."""
        names = sorted(path.stem for path in self._folder.glob("*.pub"))
        return {name: key for name in names if (key := self.of(name)) is not None}


class Register:
    """Keeps Flower's table of nodes as the files are.

    Flower takes no key twice: one that was taken away is of no use any more, its owner needs
    another. One key under two names is nobody's: whose updates would they be?
    """

    def __init__(self, keys: NodeKeys, control: Control) -> None:
        self._keys = keys
        self._control = control
        self._told: set[bytes] = set()

    def settle(self) -> dict[str, int]:
        """Registers and forgets nodes; returns the node id of each participant."""
        by_key: dict[bytes, list[str]] = {}
        for name, key in self._keys.all().items():
            by_key.setdefault(key, []).append(name)
        registered: dict[str, int] = {}
        for key, node_id in self._control.nodes().items():
            names = by_key.pop(key, [])
            if len(names) == 1:
                registered[names[0]] = node_id
            else:
                self._control.unregister_node(node_id)
        for key, names in by_key.items():
            if (fresh := self._register(key, names)) is not None:
                registered[names[0]] = fresh
        return registered

    def _register(self, key: bytes, names: list[str]) -> int | None:
        if len(names) > 1:
            self._tell(key, f"{' and '.join(names)} have one node key: none of them may come in")
            return None
        try:
            node_id = self._control.register_node(names[0], key)
        except HTTPStatusError:
            self._tell(key, f"the node key of {names[0]} was used before: it needs another")
            return None
        log.info("%s is node %d", names[0], node_id)
        return node_id

    def _tell(self, key: bytes, why: str) -> None:
        if key not in self._told:
            self._told.add(key)
            log.error("%s", why)
