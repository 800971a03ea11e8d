-- Every global model, and what it was made of. Its bytes are a blob of the same name.
create table aegis.model (
    model_sha256 bytea not null check (length(model_sha256) = 32),
    run_id text not null,
    round int not null,
    -- Null for an initial model.
    parent_sha256 bytea check (length(parent_sha256) = 32),
    size_bytes bigint not null,
    created_at timestamptz not null,
    code_version text not null,
    -- JSON: participant, update_id, update_sha256 (hex), examples.
    ingredients jsonb not null,
    key_id text not null,
    primary key (run_id, round),
    foreign key (run_id, round) references aegis.run_round
);
create index model_by_digest on aegis.model (model_sha256);
create index model_by_time on aegis.model (created_at, run_id, round);
