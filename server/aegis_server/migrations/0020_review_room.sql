-- What the review knows of a round on its way: who asked for it, who examines it until when (a lease,
-- renewed while that process lives), and how it was judged as a whole.
alter table aegis.review_round
    add column asked_at timestamptz,
    add column asked_by text not null default '',
    add column policy_revision bigint not null default 0,
    add column rule_id text not null default '',
    add column worker text not null default '',
    add column examining_at timestamptz,
    add column worker_until timestamptz,
    add column fallback boolean not null default false,
    add column fallback_participants text[] not null default '{}',
    add column reason text not null default '',
    add column warming_up boolean not null default false;
create index review_round_waiting on aegis.review_round (asked_at)
    where asked_at is not null and judged_at is null;

alter table aegis.review_update
    add column false_positive_rate double precision not null default 1,
    -- Sentences: what would have changed the verdict.
    add column would_change jsonb not null default '[]',
    -- When nobody has decided by then, the default does.
    add column hold_until timestamptz,
    add column hold_default text check (hold_default in ('accepted', 'rejected')),
    add column detector text not null default '',
    add column golden_sha256 bytea not null default '' check (length(golden_sha256) in (0, 32)),
    add column evidence_sha256 bytea not null default '' check (length(evidence_sha256) in (0, 32)),
    add check ((hold_until is null) = (hold_default is null));
-- What was held before there was a deadline waits for a person, as it did.
create index review_update_held on aegis.review_update (hold_until) where verdict = 'held';
create index review_update_participant on aegis.review_update (participant, seq);

-- Who decided otherwise than the examiners. Of two persons the first one's row waits, not effective,
-- for the second.
create table aegis.review_override (
    seq bigint generated always as identity primary key,
    update_id text not null references aegis.review_update,
    from_verdict text not null check (from_verdict in ('accepted', 'rejected', 'held')),
    to_verdict text not null check (to_verdict in ('accepted', 'rejected')),
    -- Empty when the deadline decided.
    by_whom text not null,
    confirmed_by text not null default '',
    reason text not null,
    decided_at timestamptz not null,
    effective boolean not null
);
create index review_override_update on aegis.review_override (update_id, seq);
create unique index review_override_waiting on aegis.review_override (update_id) where not effective;

-- Uploads that did not come whole in one go. Only large ones are here, for an hour at most.
create table aegis.review_upload (
    upload_id bigint generated always as identity primary key,
    run_id text not null,
    round int not null,
    attempt int not null,
    participant text not null,
    sha256 bytea not null check (length(sha256) = 32),
    size_bytes bigint not null check (size_bytes > 0),
    received_bytes bigint not null default 0,
    touched_at timestamptz not null,
    unique (run_id, round, attempt, participant, sha256, size_bytes)
);
create index review_upload_touched on aegis.review_upload (touched_at);
create table aegis.review_upload_part (
    upload_id bigint not null references aegis.review_upload on delete cascade,
    start_byte bigint not null,
    content bytea not null check (length(content) between 1 and 1048576),
    primary key (upload_id, start_byte)
);

-- Set when a round's model is the coordinate-wise median: why.
alter table aegis.run_round add column fallback text not null default '';

-- The queue of rounds for review workers has procrastinate's tables, which that package makes (see
-- aegis_server.review.queue.schema): which of its migrations they have, and the release that was
-- installed then.
create table aegis.review_queue_migration (
    name text primary key,
    release text not null,
    applied_at timestamptz not null default now()
);
