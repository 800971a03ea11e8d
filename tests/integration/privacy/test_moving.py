"""The ledger by data set becomes one by participant: nothing that was spent is forgotten."""

from __future__ import annotations

import psycopg

from aegis.serving.database import read_migrations

_BEFORE = """
insert into aegis.run
    (run_id, request_id, plan, state, reason, actor, policy_revision, rule_id, noise_multiplier,
     created_at, updated_at)
select 'run-' || n, gen_random_uuid(), '', 4, '', 'user:admin', 1, '', 1.4,
       '2026-01-01', '2026-01-02'
from generate_series(1, 3) as n;
insert into aegis.privacy_spending
    (run_id, dataset, simulation, noise_multiplier, sample_rate, steps, settled)
values ('run-1', 'rows', false, 1.4, 0.3, 45, true), ('run-2', 'rows', true, 1.4, 0.3, 60, true),
       ('run-3', 'rows', false, 2.0, 0.1, 60, false);
"""


def test_what_was_spent_before_is_borne_by_everybody(database_url: str) -> None:
    """Its runs had no participants of their own; an open one stays open."""
    migrations = {each.version: each.text for each in read_migrations("aegis_server")}
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("create schema if not exists aegis")
        for version in range(1, 18):
            connection.execute(migrations[version].encode())
        connection.execute(_BEFORE)
        connection.execute(migrations[18].encode())
        rows = connection.execute(
            """
            select run_id, participant, account, simulation, unit, noise_multiplier, sample_rate,
                   steps_reserved, steps, settled, settled_at is not null
            from aegis.privacy_entry order by run_id
            """
        ).fetchall()
    assert rows == [
        ("run-1", "*", 1, False, "record", 1.4, 0.3, 45, 45, True, True),
        ("run-2", "*", 1, True, "record", 1.4, 0.3, 60, 60, True, True),
        ("run-3", "*", 1, False, "record", 2.0, 0.1, 60, 60, False, False),
    ]
