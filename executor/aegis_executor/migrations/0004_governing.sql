-- What guards count by. Older intents have none of it and are counted by nothing.
alter table aegis_executor.intent
    add column kind text not null default '',
    add column namespace text not null default '',
    add column name text not null default '',
    add column incident_id text not null default '',
    add column approved boolean not null default false,
    add column break_glass boolean not null default false,
    add column epoch bigint not null default 0;
create index intent_newest on aegis_executor.intent (intent_at);
create index intent_incident on aegis_executor.intent (incident_id, intent_at)
    where incident_id <> '';
create index intent_target on aegis_executor.intent (namespace, kind, name, intent_at);

alter table aegis_executor.ending drop constraint ending_state_check;
alter table aegis_executor.ending add constraint ending_state_check
    check (state in ('APPLIED', 'FAILED', 'UNKNOWN', 'DRY_RUN'));

-- Who may act: the highest number. Taken together with the lock, and named by every transaction, so
-- that an executor which was only slow finds out before it writes.
create table aegis_executor.epoch (
    epoch bigint primary key,
    holder text not null,
    at timestamptz not null
);

create table aegis_executor.pause (
    pause_id text primary key,
    namespace text not null,
    action text not null,
    who text not null,
    reason text not null,
    at timestamptz not null,
    expires_at timestamptz
);
create table aegis_executor.resume (
    pause_id text primary key,
    who text not null,
    reason text not null,
    at timestamptz not null
);

-- What the world was like before the change: what verification compares with.
create table aegis_executor.baseline (
    request_id uuid primary key references aegis_executor.intent,
    observations jsonb not null,
    at timestamptz not null
);

-- Whether it helped.
create table aegis_executor.verdict (
    request_id uuid primary key references aegis_executor.intent,
    state text not null check
        (state in ('VERIFIED', 'INEFFECTIVE', 'INCONCLUSIVE', 'COMPENSATED', 'ESCALATED')),
    reason text not null,
    message text not null,
    observations jsonb not null,
    at timestamptz not null
);

-- Taking a change back is a change too: written down before it is sent, and how it ended.
create table aegis_executor.undo_attempt (
    request_id uuid not null references aegis_executor.intent,
    number smallint not null check (number > 0),
    uid text not null,
    resource_version text not null,
    generation bigint not null,
    sent_at timestamptz not null,
    primary key (request_id, number)
);

-- What a person found out about an UNKNOWN execution.
create table aegis_executor.resolution (
    request_id uuid primary key references aegis_executor.intent,
    found text not null check (found in ('APPLIED', 'NOT_APPLIED')),
    who text not null,
    reason text not null,
    at timestamptz not null
);

-- Each change of storm mode; the newest holds.
create table aegis_executor.storm (
    number bigint generated always as identity primary key,
    state text not null check (state in ('CALM', 'STORM', 'RECOVERING', 'BLIND')),
    cause text not null,
    watched integer not null,
    anomalous integer not null,
    pace integer not null,
    at timestamptz not null
);

do $$
declare
    journal_table text;
begin
    foreach journal_table in array array['epoch', 'pause', 'resume', 'baseline', 'verdict',
                                         'undo_attempt', 'resolution', 'storm'] loop
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
