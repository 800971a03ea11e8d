-- What the executor was asked, what it sent, how it ended. Nothing here ever changes: an INTENT
-- without an end is what a crash leaves, and is ended by looking at the cluster.
create table aegis_executor.intent (
    request_id uuid primary key,
    action_id text not null,
    action text not null,
    issuer text not null,
    action_digest bytea not null check (length(action_digest) = 32),
    key_id text not null,
    nonce bytea not null check (length(nonce) = 16),
    -- The signed bytes, as evidence and to know after a crash what was meant.
    request bytea not null,
    decision bytea not null,
    intent_at timestamptz not null,
    -- A nonce is spent once, whatever request it comes with.
    unique (key_id, nonce)
);

-- Written before each write to the cluster: the object and version it is pinned to.
create table aegis_executor.attempt (
    request_id uuid not null references aegis_executor.intent,
    number smallint not null check (number > 0),
    uid text not null,
    resource_version text not null,
    generation bigint not null,
    sent_at timestamptz not null,
    primary key (request_id, number)
);

create table aegis_executor.ending (
    request_id uuid primary key references aegis_executor.intent,
    state text not null check (state in ('APPLIED', 'FAILED', 'UNKNOWN')),
    reason text not null,
    message text not null,
    observations jsonb not null,
    ended_at timestamptz not null
);

create function aegis_executor.refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'the journal is append-only' using errcode = 'restrict_violation';
end $$;

do $$
declare
    journal_table text;
begin
    foreach journal_table in array array['intent', 'attempt', 'ending'] loop
        execute format(
            'create trigger no_change before update or delete on aegis_executor.%I
                 for each row execute function aegis_executor.refuse_change()', journal_table);
        execute format(
            'create trigger no_truncate before truncate on aegis_executor.%I
                 for each statement execute function aegis_executor.refuse_change()', journal_table);
        -- Ordinary triggers are skipped under session_replication_role = replica; these are not.
        execute format(
            'alter table aegis_executor.%I enable always trigger no_change', journal_table);
        execute format(
            'alter table aegis_executor.%I enable always trigger no_truncate', journal_table);
    end loop;
end $$;
