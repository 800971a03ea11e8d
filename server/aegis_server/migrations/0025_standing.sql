-- What examiners saw of an update and how it was judged then: for later rounds, for detectors and
-- for its participant's standing. How the verdict stands now is in aegis.review_update.
create table aegis.review_memory (
    update_id text primary key references aegis.review_update,
    run_id text not null,
    round int not null,
    attempt int not null,
    participant text not null,
    dataset text not null,
    verdict text not null check (verdict in ('accepted', 'rejected', 'held')),
    score double precision not null,
    -- Numbers by name, relative to the round.
    features jsonb not null,
    -- The update's direction: see aegis_server.review.sketches.
    sketch bytea not null,
    created_at timestamptz not null
);
create index review_memory_past on aegis.review_memory (run_id, participant, round, attempt);
create index review_memory_recorded on aegis.review_memory (dataset, created_at);
create index review_memory_participant on aegis.review_memory (participant, created_at);
