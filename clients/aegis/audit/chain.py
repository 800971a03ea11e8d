"""How records are hashed and chained.

leaf_hash is RFC 6962's (SHA-256 of 0x00 || record); chain_hash adds the order
(SHA-256 of 0x02 || previous chain hash || leaf hash).
"""

from __future__ import annotations

import hashlib

GENESIS = bytes(32)
SCHEMA_VERSION = 1


def leaf_hash(record: bytes) -> bytes:
    """Returns the 32-byte RFC 6962 leaf hash of a record's exact bytes."""
    return hashlib.sha256(b"\x00" + record).digest()


def chain_hash(previous: bytes, leaf: bytes) -> bytes:
    """Returns the running hash after a leaf."""
    return hashlib.sha256(b"\x02" + previous + leaf).digest()
