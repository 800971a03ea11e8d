-- Rounds of updates. A round is closed before it is judged, so that what is judged together is
-- what came in together; whoever takes its row's lock first closes, and later judges, it.
create table aegis.review_round (
    run_id text not null,
    round int not null check (round >= 1),
    attempt int not null check (attempt >= 1),
    closed_at timestamptz,
    judged_at timestamptz,
    primary key (run_id, round, attempt),
    check (judged_at is null or closed_at is not null)
);

-- Updates as they were taken in; their bytes are blobs named by sha256.
create table aegis.review_update (
    seq bigint generated always as identity unique,
    update_id text primary key,
    run_id text not null,
    round int not null,
    attempt int not null,
    participant text not null,
    sha256 bytea not null check (length(sha256) = 32),
    size_bytes bigint not null check (size_bytes > 0),
    created_at timestamptz not null,
    verdict text not null default 'pending'
        check (verdict in ('pending', 'accepted', 'rejected', 'held')),
    score double precision not null default 0,
    findings jsonb not null default '[]',
    reviewed_at timestamptz,
    -- A participant has one update in a round; a retry finds it, another one is refused.
    unique (run_id, round, attempt, participant),
    foreign key (run_id, round, attempt) references aegis.review_round,
    check ((verdict = 'pending') = (reviewed_at is null))
);
create index review_update_run on aegis.review_update (run_id, seq);
