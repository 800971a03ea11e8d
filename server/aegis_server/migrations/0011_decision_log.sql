-- The decision log: every answer of the policy, a partition a day, written by COPY. What was decided
-- never changes; only the attributes, which may be personal data, may be erased.
create table aegis.decision (
    at timestamptz not null,
    decision_id uuid not null,
    -- Which process wrote it, in which of its batches, at which place.
    log uuid not null,
    batch bigint not null,
    place smallint not null,
    effect smallint not null check (effect in (1, 2)),
    source smallint not null check (source between 1 and 4),
    revision bigint not null,
    microseconds integer not null,
    attributes_digest bytea not null,
    caller text not null,
    subject text not null,
    domain text not null,
    resource text not null,
    action text not null,
    rule_id text not null,
    attributes text
) partition by range (at);
create index decision_at on aegis.decision (at, decision_id);
create index decision_subject on aegis.decision (subject, at, decision_id);

-- A batch is what one COPY wrote. `chain` is a SHA-256 over the one before, over `rows_digest` and
-- over every other column here, so the chain of a log is evidence for all of its rows. `at` is not
-- before any of its rows: their partitions are dropped before its own, or with it.
create table aegis.decision_batch (
    at timestamptz not null,
    log uuid not null,
    number bigint not null check (number > 0),
    replica text not null,
    decisions integer not null check (decisions >= 0),
    first_at timestamptz not null,
    tally text not null,
    -- Decisions that were given and not written, since the batch before.
    unrecorded bigint not null check (unrecorded >= 0),
    unrecorded_from timestamptz,
    unrecorded_until timestamptz,
    rows_digest bytea not null check (length(rows_digest) = 32),
    prev_chain bytea not null check (length(prev_chain) = 32),
    chain bytea not null check (length(chain) = 32)
) partition by range (at);
create index decision_batch_number on aegis.decision_batch (log, number);

-- Up to which batch of a log the audit log holds its chain.
create table aegis.decision_commitment (
    log uuid not null,
    first_batch bigint not null,
    last_batch bigint not null check (last_batch >= first_batch),
    at timestamptz not null,
    primary key (log, first_batch)
);

-- What replicas in clients' processes have reported: a report that is sent again is taken once.
create table aegis.decision_reported (
    decision_id uuid primary key,
    at timestamptz not null
);
create index decision_reported_at on aegis.decision_reported using brin (at);

create function aegis.refuse_decision_change() returns trigger language plpgsql as $$
begin
    if tg_op = 'UPDATE' and tg_table_name like 'decision\_2%' then
        if new.attributes is null then
            old.attributes := null;
            if old is not distinct from new then
                return new;
            end if;
        end if;
    end if;
    raise exception 'the decision log is append-only' using errcode = 'restrict_violation';
end $$;

do $$
declare
    kept text;
begin
    foreach kept in array array['decision', 'decision_batch', 'decision_commitment'] loop
        execute format(
            'create trigger no_change before update or delete on aegis.%I
                 for each row execute function aegis.refuse_decision_change()', kept);
        execute format(
            'create trigger no_truncate before truncate on aegis.%I
                 for each statement execute function aegis.refuse_decision_change()', kept);
        -- Ordinary triggers are skipped under session_replication_role = replica; these are not.
        execute format('alter table aegis.%I enable always trigger no_change', kept);
        execute format('alter table aegis.%I enable always trigger no_truncate', kept);
    end loop;
end $$;

-- Makes the partitions of some days, UTC, where they are missing. The server's role owns no table,
-- so it asks for them here. A table that is attached, unlike one made as a partition, keeps nobody
-- from writing meanwhile.
create function aegis.make_decision_partitions(first_day date, last_day date) returns void
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $$
declare
    day date;
    parent text;
    part text;
begin
    if last_day - first_day > 4000 then
        raise exception 'too many partitions at once';
    end if;
    perform pg_advisory_xact_lock(hashtextextended('aegis.decision partitions', 0));
    for day in select generate_series(first_day, last_day, interval '1 day')::date loop
        foreach parent in array array['decision', 'decision_batch'] loop
            part := parent || '_' || to_char(day, 'YYYYMMDD');
            continue when to_regclass(format('aegis.%I', part)) is not null;
            execute format('create table aegis.%I (like aegis.%I including constraints)',
                           part, parent);
            execute format('create trigger no_truncate before truncate on aegis.%I
                for each statement execute function aegis.refuse_decision_change()', part);
            execute format('alter table aegis.%I attach partition aegis.%I
                for values from (%L) to (%L)', parent, part,
                to_char(day, 'YYYY-MM-DD') || ' 00:00:00+00',
                to_char(day + 1, 'YYYY-MM-DD') || ' 00:00:00+00');
            execute format('alter table aegis.%I enable always trigger no_change', part);
            execute format('alter table aegis.%I enable always trigger no_truncate', part);
            -- Rows are reached through the parent, whose grants then count; by default
            -- privileges the new table would be open to the server's role.
            if exists (select from pg_roles where rolname = 'aegis_server') then
                execute format('revoke all on aegis.%I from aegis_server', part);
            end if;
        end loop;
    end loop;
end $$;

-- Drops the days before one, and says how many batches and decisions each had. Whoever calls it,
-- yesterday stays.
create function aegis.drop_decision_partitions(before_day date)
    returns table (day date, batches bigint, decisions bigint)
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp set lock_timeout = '2s' as $$
declare
    suffix text;
begin
    if before_day > (now() at time zone 'UTC')::date - 1 then
        raise exception 'yesterday is kept' using errcode = 'restrict_violation';
    end if;
    perform pg_advisory_xact_lock(hashtextextended('aegis.decision partitions', 0));
    for suffix in
        select right(c.relname, 8) from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'aegis.decision_batch'::regclass
          and right(c.relname, 8) < to_char(before_day, 'YYYYMMDD')
        order by 1
    loop
        day := to_date(suffix, 'YYYYMMDD');
        execute format('select count(*), coalesce(sum(b.decisions), 0) from aegis.%I b',
                       'decision_batch_' || suffix) into batches, decisions;
        execute format('drop table aegis.%I', 'decision_' || suffix);
        execute format('drop table aegis.%I', 'decision_batch_' || suffix);
        return next;
    end loop;
    delete from aegis.decision_reported r where r.at < before_day;
end $$;

revoke all on function aegis.make_decision_partitions, aegis.drop_decision_partitions from public;

-- See 0001_audit.sql.
do $$
begin
    if exists (select from pg_roles where rolname = 'aegis_server') then
        revoke update, delete, truncate on aegis.decision, aegis.decision_batch,
            aegis.decision_commitment, aegis.decision_reported from aegis_server;
        grant update (attributes) on aegis.decision to aegis_server;
        grant execute on function aegis.make_decision_partitions, aegis.drop_decision_partitions
            to aegis_server;
    end if;
end $$;
