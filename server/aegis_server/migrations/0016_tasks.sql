-- Who takes part in a run, with the weight it has in it: fixed when the run is created.
create table aegis.run_site (
    run_id text not null references aegis.run,
    name text not null,
    node_id bigint not null,
    examples bigint not null check (examples >= 0),
    primary key (run_id, name)
);

-- What participants were asked to do. A run, round, repeat and participant have one task, whoever
-- coordinates: its answer, once here, is never asked for again.
create table aegis.training_task (
    task_id text primary key,
    run_id text not null references aegis.run,
    round int not null check (round >= 1),
    repeat int not null check (repeat >= 0),
    participant text not null references aegis.participant,
    message_type text not null,
    group_id text not null,
    content_sha256 bytea not null check (length(content_sha256) = 32),
    content_size_bytes bigint not null,
    answer_bytes_max bigint not null,
    nonce bytea not null check (length(nonce) = 16),
    -- aegis.v1.Mechanism, serialised; empty when nothing private is promised.
    mechanism bytea not null default '',
    steps int not null default 0,
    created_at timestamptz not null,
    deadline timestamptz not null,
    -- When the site said that it has it whole: from then on it is spent.
    received_at timestamptz,
    closed_at timestamptz,
    -- aegis.v1.CollectAnswersResponse.End; 0 while it is open.
    ended smallint not null default 0,
    reason text not null default '',
    answer_sha256 bytea check (length(answer_sha256) = 32),
    answer_size_bytes bigint not null default 0,
    -- Private steps it may have cost.
    steps_spent int not null default 0,
    seconds double precision not null default 0,
    unique (run_id, round, repeat, participant, message_type),
    check ((ended = 0) = (closed_at is null))
);
create index training_task_open on aegis.training_task (participant) where ended = 0;
create index training_task_round on aegis.training_task (run_id, round);

-- What was measured of a participant's round beside what the model did.
alter table aegis.run_participant
    add column seconds double precision not null default 0,
    add column bytes_sent bigint not null default 0,
    add column bytes_received bigint not null default 0,
    add column tries int not null default 1,
    add column steps int not null default 0,
    add column auc double precision not null default 0;
