"""SQL of uploads that did not come whole in one go."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from aegis.serving.database import Connection
from aegis_server.review.store import RoundKey


@dataclass(frozen=True, slots=True)
class Name:
    """Which upload: the bytes a participant wants to send for a round."""

    key: RoundKey
    participant: str
    sha256: bytes
    size_bytes: int


def _of(name: Name) -> tuple[object, ...]:
    key = name.key
    return key.run_id, key.round, key.attempt, name.participant, name.sha256, name.size_bytes


_WHERE = """
    where run_id = %s and round = %s and attempt = %s and participant = %s and sha256 = %s
      and size_bytes = %s
"""


async def received(connection: Connection, name: Name) -> int:
    """Returns how many bytes of an upload are here; zero of one that nobody knows."""
    cursor = await connection.execute(
        f"select received_bytes from aegis.review_upload {_WHERE}",  # noqa: S608
        _of(name),
    )
    found = await cursor.fetchone()
    return int(found[0]) if found else 0


async def count(connection: Connection, participant: str, *, but: Name) -> int:
    """Returns how many other uploads of a participant are here, unfinished."""
    cursor = await connection.execute(
        """
        select count(*) from aegis.review_upload
        where participant = %s and not (run_id = %s and round = %s and attempt = %s
          and participant = %s and sha256 = %s and size_bytes = %s)
        """,
        (participant, *_of(but)),
    )
    found = await cursor.fetchone()
    return int(found[0]) if found else 0


async def append(
    connection: Connection, name: Name, *, start: int, content: bytes, now: datetime
) -> bool:
    """Keeps the part that begins at `start`; False when the upload does not stand there.

    The row lock of the upload makes two streams of the same bytes take turns, and only one of
    them finds the upload where it left it.
    """
    await connection.execute(
        """
        insert into aegis.review_upload
            (run_id, round, attempt, participant, sha256, size_bytes, touched_at)
        values (%s, %s, %s, %s, %s, %s, %s) on conflict do nothing
        """,
        (*_of(name), now),
    )
    cursor = await connection.execute(
        f"""
        update aegis.review_upload set received_bytes = received_bytes + %s, touched_at = %s
        {_WHERE} and received_bytes = %s returning upload_id
        """,  # noqa: S608
        (len(content), now, *_of(name), start),
    )
    found = await cursor.fetchone()
    if found is None:
        return False
    await connection.execute(
        "insert into aegis.review_upload_part (upload_id, start_byte, content) values (%s, %s, %s)",
        (found[0], start, content),
    )
    return True


async def content(connection: Connection, name: Name) -> bytes:
    """Returns what is here of an upload, in order."""
    cursor = await connection.execute(
        f"""
        select content from aegis.review_upload_part
        where upload_id = (select upload_id from aegis.review_upload {_WHERE})
        order by start_byte
        """,  # noqa: S608
        _of(name),
    )
    return b"".join([bytes(row[0]) for row in await cursor.fetchall()])


async def drop(connection: Connection, name: Name) -> None:
    """Forgets an upload and its parts."""
    await connection.execute(
        f"delete from aegis.review_upload {_WHERE}",  # noqa: S608
        _of(name),
    )


async def drop_older(connection: Connection, before: datetime) -> int:
    """Forgets uploads nobody went on with; returns how many."""
    cursor = await connection.execute(
        "delete from aegis.review_upload where touched_at < %s", (before,)
    )
    return cursor.rowcount
