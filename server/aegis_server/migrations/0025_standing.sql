-- What examiners saw of an update and how it was judged then: for later rounds, for detectors and
-- for its participant's standing. How the verdict stands now is in aegis.review_update.
create table aegis.review_memory (
    update_id text primary key references aegis.review_update,
    run_id text not null,
    round int not null,
    attempt int not null,
    participant text not null,
    dataset text not null,
    enrolled boolean not null,
    verdict text not null check (verdict in ('accepted', 'rejected', 'held')),
    score double precision not null,
    -- Numbers by name, relative to the round.
    features jsonb not null,
    -- The update's direction: see aegis_server.review.sketches.
    sketch bytea not null,
    -- Whose update in the same round was suspiciously like it: aegis_server.review.memory.likeness.
    alike text[] not null default '{}',
    -- Examiners that had something against it, and the kind of attack their findings point to.
    against text[] not null default '{}',
    looks_like text not null default '',
    created_at timestamptz not null
);
create index review_memory_past on aegis.review_memory (run_id, participant, round, attempt);
create index review_memory_recorded on aegis.review_memory (dataset, created_at);
create index review_memory_participant on aegis.review_memory (participant, created_at)
    where enrolled;

-- What is thought of a participant: reckoned anew with every round of it that is judged.
create table aegis.review_standing (
    participant text primary key,
    reputation double precision not null check (reputation between 0 and 1),
    judged int not null,
    accepted int not null,
    rejected int not null,
    held int not null,
    drift double precision not null check (drift >= 0),
    colludes_with text[] not null,
    last_at timestamptz not null
);
create index review_standing_by_trust on aegis.review_standing (reputation, participant);
-- Whether an update's participant has enrolled. Sites of a simulation have a number and no identity:
-- what they send says nothing about whoever has that name in another run. What was judged before is
-- not remembered, and no part of a standing.
alter table aegis.review_update add column enrolled boolean not null default false;
create index review_update_standing on aegis.review_update (participant, verdict) where enrolled;

create table aegis.review_quarantine (
    seq bigint generated always as identity unique,
    quarantine_id text primary key,
    participant text not null,
    state text not null default 'proposed'
        check (state in ('proposed', 'in_force', 'refused', 'lifted')),
    cause text not null check (cause in ('reputation', 'collusion')),
    reason text not null,
    update_ids text[] not null,
    proposed_at timestamptz not null,
    -- The last decision; every one is in the audit log.
    decided_by text not null default '',
    decision_reason text not null default '',
    decided_at timestamptz,
    check ((state = 'proposed') = (decided_at is null))
);
-- Nobody is proposed twice at a time; two rounds judged at once meet here.
create unique index review_quarantine_open on aegis.review_quarantine (participant)
    where state in ('proposed', 'in_force');
create index review_quarantine_of on aegis.review_quarantine (participant, seq);

-- Analytics count by day, participant, attack and examiner: all they read is in this index, because
-- the rows beside it are a hundred times as wide.
create index review_memory_counted on aegis.review_memory
    (created_at, update_id, participant, run_id, verdict, looks_like, against);
create index review_memory_suspect on aegis.review_memory (created_at)
    where verdict <> 'accepted';
create index review_round_judged on aegis.review_round (judged_at) where judged_at is not null;
create index review_quarantine_proposed on aegis.review_quarantine (proposed_at);
