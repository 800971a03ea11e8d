-- Signed checkpoints of the audit log, and the signatures of witnesses under them.
create table aegis.audit_checkpoint (
    -- In the order they were cut; an idle log gets one of the same size again, with a later time.
    number bigint generated always as identity primary key,
    tree_size bigint not null check (tree_size > 0),
    at timestamptz not null,
    note text not null
);
create index audit_checkpoint_size on aegis.audit_checkpoint (tree_size);
create table aegis.audit_cosignature (
    number bigint not null references aegis.audit_checkpoint,
    witness text not null,
    line text not null,
    at timestamptz not null,
    primary key (number, witness)
);
do $$
declare
    kept text;
begin
    foreach kept in array array['audit_checkpoint', 'audit_cosignature'] loop
        execute format(
            'create trigger no_change before update or delete on aegis.%I
                 for each row execute function aegis.refuse_change()', kept);
        execute format(
            'create trigger no_truncate before truncate on aegis.%I
                 for each statement execute function aegis.refuse_change()', kept);
        -- Ordinary triggers are skipped under session_replication_role = replica; these are not.
        execute format('alter table aegis.%I enable always trigger no_change', kept);
        execute format('alter table aegis.%I enable always trigger no_truncate', kept);
    end loop;
end $$;

-- See 0001_audit.sql.
do $$
begin
    if exists (select from pg_roles where rolname = 'aegis_server') then
        revoke update, delete, truncate on aegis.audit_checkpoint, aegis.audit_cosignature
            from aegis_server;
    end if;
end $$;
