"""`python -m aegis_server.policy.decisionlog` verifies the decision log of a database.

It reads `AEGIS_DATABASE_URL`, or `AEGIS_DATABASE_URL_FILE`, as the server does, and changes
nothing. Exits with 1 when something was changed, 2 when the database cannot be read.
"""

from __future__ import annotations

import asyncio
import os
import sys

from aegis.errors import AegisError
from aegis.secretfiles import text_of
from aegis.serving.database import Database
from aegis_server.policy.decisionlog.verification import Verification, verify


async def look(url: str) -> Verification:
    """Verifies a database."""
    database = Database(url, application="aegis-decision-log")
    try:
        await database.open()
        return await verify(database)
    finally:
        await database.close()


def main() -> None:
    """Entry point."""
    try:
        found = asyncio.run(look(text_of(os.environ, "AEGIS_DATABASE_URL") or ""))
    except (AegisError, ValueError) as error:
        sys.stderr.write(f"cannot be verified: {error}\n")
        sys.exit(2)
    write = sys.stdout.write
    for problem in found.problems:
        write(f"BROKEN  {problem}\n")
    write(
        f"{found.decisions} decisions in {found.batches} batches, {found.commitments} audit records"
        f" commit to them; {found.open_batches} batches are not committed to yet;"
        f" {found.unrecorded} decisions were given without a record\n"
    )
    sys.exit(1 if found.problems else 0)


if __name__ == "__main__":
    main()
