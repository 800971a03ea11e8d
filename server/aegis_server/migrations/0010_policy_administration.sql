-- Places with room between them: a line keeps its own while it stays, and one that comes between
-- two others moves neither. Zero is no place, so that a request can mean "none" by it.
alter table aegis.policy_rule
    alter column position type bigint using (position::bigint + 1) * 1048576;
-- What a step from one revision to another took away.
create index policy_rule_deleted on aegis.policy_rule (deleted_rev) where deleted_rev is not null;

-- Casbin's model.conf; empty for Aegis' own. Without a default, on purpose: a server of an older
-- Aegis that still runs would number places from 0, and must fail to write instead.
alter table aegis.policy_revision add column model_conf text not null default '';
alter table aegis.policy_revision alter column model_conf drop default;

-- Changes that wait for a second person. `digest` is that of the revision it would become, so that
-- what is approved is what was proposed.
create table aegis.policy_proposal (
    number bigint generated always as identity primary key,
    proposal_id uuid not null unique,
    base_revision bigint not null references aegis.policy_revision,
    digest bytea not null check (length(digest) = 32),
    csv text not null,
    model_conf text not null,
    proposer text not null,
    reason text not null,
    details jsonb not null,
    differences jsonb not null,
    created_at timestamptz not null,
    state text not null default 'pending' check (state in ('pending', 'approved', 'rejected')),
    decider text,
    decided_at timestamptz,
    revision bigint references aegis.policy_revision,
    check ((state = 'pending') = (decider is null)),
    check ((state = 'pending') = (decided_at is null)),
    check ((state = 'approved') = (revision is not null))
);

do $$
begin
    if exists (select from pg_roles where rolname = 'aegis_server') then
        revoke update, delete on aegis.policy_proposal from aegis_server;
        grant update (state, decider, decided_at, revision) on aegis.policy_proposal
            to aegis_server;
    end if;
end $$;
