-- Signed checkpoints of the audit log, and the signatures of witnesses under them.
create table aegis_executor.audit_checkpoint (
    -- In the order they were cut; an idle log gets one of the same size again, with a later time.
    number bigint generated always as identity primary key,
    tree_size bigint not null check (tree_size > 0),
    at timestamptz not null,
    note text not null
);
create index audit_checkpoint_size on aegis_executor.audit_checkpoint (tree_size);
create table aegis_executor.audit_cosignature (
    number bigint not null references aegis_executor.audit_checkpoint,
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
            'create trigger no_change before update or delete on aegis_executor.%I
                 for each row execute function aegis_executor.refuse_audit_change()', kept);
        execute format(
            'create trigger no_truncate before truncate on aegis_executor.%I
                 for each statement execute function aegis_executor.refuse_audit_change()', kept);
        -- Ordinary triggers are skipped under session_replication_role = replica; these are not.
        execute format('alter table aegis_executor.%I enable always trigger no_change', kept);
        execute format('alter table aegis_executor.%I enable always trigger no_truncate', kept);
    end loop;
end $$;
