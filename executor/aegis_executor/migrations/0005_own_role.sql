-- Whoever runs the executor only adds: its role reads and inserts, and the schema belongs to whoever
-- runs migrations. Where one role does both, as it may, the triggers alone hold.
do $$
declare
    owned record;
begin
    if current_user = 'aegis_executor'
            or not exists (select from pg_roles where rolname = 'aegis_executor') then
        return;
    end if;
    -- An earlier Aegis let the role own everything.
    if (select nspowner::regrole::text from pg_namespace where nspname = 'aegis_executor')
            = 'aegis_executor' then
        execute format('alter schema aegis_executor owner to %I', current_user);
    end if;
    for owned in
        select relname from pg_class
        where relnamespace = 'aegis_executor'::regnamespace and relkind = 'r'
            and relowner = 'aegis_executor'::regrole
    loop
        execute format('alter table aegis_executor.%I owner to %I', owned.relname, current_user);
    end loop;
    for owned in
        select oid::regprocedure as signature from pg_proc
        where pronamespace = 'aegis_executor'::regnamespace
            and proowner = 'aegis_executor'::regrole
    loop
        execute format('alter function %s owner to %I', owned.signature, current_user);
    end loop;
    revoke all on schema aegis_executor from aegis_executor;
    grant usage on schema aegis_executor to aegis_executor;
    revoke all on all tables in schema aegis_executor from aegis_executor;
    grant select, insert on all tables in schema aegis_executor to aegis_executor;
    alter default privileges in schema aegis_executor
        grant select, insert on tables to aegis_executor;
    -- It has to know whether the schema fits, and has no business saying so.
    revoke insert on aegis_executor.schema_migration from aegis_executor;
    -- What stands beside the audit log may have to be erased.
    grant delete on aegis_executor.audit_attachment to aegis_executor;
end $$;

-- UNKNOWN is looked for however old it is, and is rare.
create index ending_unknown on aegis_executor.ending (request_id) where state = 'UNKNOWN';
