-- Actions somebody signed for. A row exists before anything is done.
create table aegis.action (
    action_id text primary key,
    request_id uuid not null unique,
    key_id text not null,
    nonce bytea not null,
    issuer text not null,
    spec bytea not null,
    action_digest bytea not null check (length(action_digest) = 32),
    request_envelope bytea not null,
    decision_envelope bytea,
    execute_not_after timestamptz not null,
    state smallint not null,
    reason text not null default '',
    message text not null default '',
    observations jsonb not null default '{}',
    policy_revision bigint not null,
    rule_id text not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    -- A signed envelope is good once.
    unique (key_id, nonce)
);
create index action_newest on aegis.action (created_at desc, action_id desc);
-- What the reconciler still has to ask about: 2 is DISPATCHED.
create index action_open on aegis.action (updated_at) where state = 2;
