-- The rules and every state they ever had. A line lives from created_rev until just before
-- deleted_rev, so that any revision can be read back.
create table aegis.policy_revision (
    revision bigint primary key check (revision > 0),
    prev_digest bytea not null unique check (length(prev_digest) = 32),
    digest bytea not null unique check (length(digest) = 32),
    actor text not null,
    reason text not null,
    rule_count int not null,
    at timestamptz not null
);

create table aegis.policy_rule (
    created_rev bigint not null references aegis.policy_revision,
    position int not null,
    kind text not null check (kind in ('p', 'g', 'g2')),
    fields text[] not null,
    deleted_rev bigint references aegis.policy_revision check (deleted_rev > created_rev),
    primary key (created_rev, position)
);
-- One line at each place, now.
create unique index policy_rule_now on aegis.policy_rule (position) where deleted_rev is null;

-- The row that writers lock, and that readers compare theirs with every second.
create table aegis.policy_head (
    only_one boolean primary key default true check (only_one),
    revision bigint not null,
    digest bytea not null check (length(digest) = 32)
);
insert into aegis.policy_head (revision, digest) values (0, decode(repeat('00', 32), 'hex'));

do $$
begin
    if exists (select from pg_roles where rolname = 'aegis_server') then
        revoke update, delete on aegis.policy_revision from aegis_server;
        revoke delete on aegis.policy_rule, aegis.policy_head from aegis_server;
    end if;
end $$;
