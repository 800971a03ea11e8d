-- Actions wait for people, are watched until it is known whether they helped, and may have broken
-- the glass. States are those of aegis.v1.Action.State.
alter table aegis.action
    -- The exact decision behind `decision_envelope` is made anew for every request; what is owed is
    -- what the last one demanded.
    add column steps bytea not null default '',
    add column attributes jsonb not null default '{}',
    add column incident_id text not null default '',
    add column break_glass boolean not null default false,
    add column dry_run boolean not null default false,
    add column approval_expires_at timestamptz,
    add column execute_expires_at timestamptz,
    add column ended_at timestamptz,
    add column gates bytea not null default '';
create index action_incident on aegis.action (incident_id, created_at) where incident_id <> '';
-- Every envelope that was taken, not only the first: an action may be signed for again.
create table aegis.action_envelope (
    key_id text not null,
    nonce bytea not null,
    action_id text not null references aegis.action,
    envelope bytea not null,
    at timestamptz not null,
    primary key (key_id, nonce)
);

create table aegis.action_approval (
    action_id text not null references aegis.action,
    approver text not null,
    -- One of 'approval', 'rejection', 'review' (of a broken glass).
    kind text not null check (kind in ('approval', 'rejection', 'review')),
    step smallint not null,
    group_name text not null,
    reason text not null,
    detached boolean not null,
    envelope bytea,
    at timestamptz not null,
    -- Nobody speaks twice.
    primary key (action_id, kind, approver)
);

create table aegis.pause (
    pause_id text primary key,
    namespace text not null,
    action text not null,
    who text not null,
    reason text not null,
    created_at timestamptz not null,
    expires_at timestamptz,
    resumed_by text not null default '',
    resumed_at timestamptz,
    resume_reason text not null default '',
    -- Since when the executor has the newest of it.
    executor_at timestamptz
);

-- Sent and not ended: what the reconciler asks the executor about (DISPATCHED and APPLIED), and what
-- expires while it waits for people (PENDING_APPROVAL and APPROVED).
drop index aegis.action_open;
create index action_open on aegis.action (updated_at) where state in (2, 3);
create index action_waiting on aegis.action (created_at) where state in (7, 10);
