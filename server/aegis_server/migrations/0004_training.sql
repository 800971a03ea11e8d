-- Federated training runs, their rounds, and what they cost in privacy.
create table aegis.run (
    run_id text primary key,
    request_id uuid not null unique,
    -- aegis.v1.RunPlan, serialised deterministically: equal plans have equal bytes.
    plan bytea not null,
    -- aegis.v1.Run.State
    state smallint not null check (state between 1 and 6),
    reason text not null default '',
    actor text not null,
    policy_revision bigint not null,
    rule_id text not null,
    noise_multiplier double precision not null check (noise_multiplier > 0),
    -- Coordinators this run has had.
    attempt int not null default 0,
    created_at timestamptz not null,
    updated_at timestamptz not null
);
-- What a starting server takes up again: STARTING, RUNNING, STOPPING.
create index run_open on aegis.run (run_id) where state in (1, 2, 3);

create table aegis.run_round (
    run_id text not null references aegis.run,
    -- 0 is the initial model.
    round int not null check (round >= 0),
    -- The coordinator that completed it.
    attempt int not null,
    model_sha256 bytea not null check (length(model_sha256) = 32),
    accuracy double precision not null,
    loss double precision not null,
    epsilon double precision not null,
    steps int not null check (steps >= 0),
    completed_at timestamptz not null,
    primary key (run_id, round)
);

create table aegis.run_participant (
    run_id text not null,
    round int not null,
    participant text not null,
    loss double precision not null,
    accuracy double precision not null,
    epsilon double precision not null,
    examples int not null,
    -- aegis.v1.ParticipantRound.Outcome
    outcome smallint not null,
    update_id text not null,
    reason text not null,
    primary key (run_id, round, participant),
    foreign key (run_id, round) references aegis.run_round
);

-- The privacy ledger: one line for each run, in the terms of the accountant. A record of a data
-- set is at one site of a run, so a run costs each record at most `steps` steps of its mechanism,
-- and runs on one data set add up.
create table aegis.privacy_spending (
    run_id text primary key references aegis.run,
    dataset text not null,
    -- Simulations use data that is no secret and noise that can be repeated: listed, not counted.
    simulation boolean not null,
    noise_multiplier double precision not null check (noise_multiplier > 0),
    sample_rate double precision not null check (sample_rate > 0 and sample_rate <= 1),
    -- Reserved at the start; lowered to what was used when the run ends, never raised.
    steps int not null check (steps >= 0),
    settled boolean not null default false
);
create index privacy_spending_dataset on aegis.privacy_spending (dataset) where not simulation;
