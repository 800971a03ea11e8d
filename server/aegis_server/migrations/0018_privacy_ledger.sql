-- The privacy ledger, by data set and participant. Nothing in it is ever deleted: a reset begins a
-- new account. Participant '*' is what every participant bears: sites without an identity of their
-- own, whose rows nobody can tell apart from run to run.
create table aegis.privacy_entry (
    run_id text not null references aegis.run,
    dataset text not null,
    participant text not null,
    account int not null default 1,
    -- Simulations use data that is no secret: listed, not counted.
    simulation boolean not null,
    -- 'record' or 'participant'.
    unit text not null default 'record' check (unit in ('record', 'participant')),
    model text not null default '',
    noise_multiplier double precision not null check (noise_multiplier > 0),
    sample_rate double precision not null check (sample_rate > 0 and sample_rate <= 1),
    clip_norm double precision not null default 0,
    delta double precision not null default 0,
    steps_reserved int not null check (steps_reserved >= 0),
    -- What counts: reserved at first, lowered to what was used when the run ends, never raised.
    steps int not null check (steps >= 0 and steps <= steps_reserved),
    settled boolean not null default false,
    created_at timestamptz not null default now(),
    settled_at timestamptz,
    primary key (run_id, participant),
    -- Noise for whole participants is counted without sampling: see aegis_server.privacy.book.
    check (unit = 'record' or sample_rate = 1)
);
create index privacy_entry_account on aegis.privacy_entry (dataset, participant, account)
    where not simulation;

insert into aegis.privacy_entry (
    run_id, dataset, participant, simulation, noise_multiplier, sample_rate, steps_reserved, steps,
    settled, created_at, settled_at
)
select s.run_id, s.dataset, '*', s.simulation, s.noise_multiplier, s.sample_rate, s.steps, s.steps,
       s.settled, r.created_at, case when s.settled then r.updated_at end
from aegis.privacy_spending s join aegis.run r using (run_id);
drop table aegis.privacy_spending;

-- Limits, newest last; '*' is for every participant that has none of its own.
create table aegis.privacy_limit (
    seq bigint generated always as identity primary key,
    dataset text not null,
    participant text not null,
    epsilon double precision not null check (epsilon > 0),
    delta double precision not null check (delta > 0 and delta < 1),
    actor text not null,
    reason text not null,
    set_at timestamptz not null
);
create index privacy_limit_of on aegis.privacy_limit (dataset, participant, seq);

-- Which account counts; no row means 1. A reset of '*' begins a new one for everybody.
create table aegis.privacy_account (
    dataset text not null,
    participant text not null,
    account int not null check (account >= 2),
    actor text not null,
    reason text not null,
    begun_at timestamptz not null,
    primary key (dataset, participant, account)
);
