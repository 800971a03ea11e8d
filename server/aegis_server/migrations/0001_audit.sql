-- The audit log. Written by one sequencer at a time; nothing in it may ever change.
create table aegis.audit_record (
    idx bigint primary key check (idx >= 0),
    at timestamptz not null,
    kind smallint not null,
    subject_id text not null,
    record bytea not null,
    leaf_hash bytea not null check (length(leaf_hash) = 32),
    -- A fork would need two records with the same predecessor.
    prev_chain_hash bytea not null unique check (length(prev_chain_hash) = 32),
    chain_hash bytea not null unique check (length(chain_hash) = 32)
);
create index audit_record_subject on aegis.audit_record (subject_id, idx) where subject_id <> '';
create index audit_record_kind on aegis.audit_record (kind, idx);

create function aegis.refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'the audit log is append-only' using errcode = 'restrict_violation';
end $$;

create trigger audit_record_no_change before update or delete on aegis.audit_record
    for each row execute function aegis.refuse_change();
create trigger audit_record_no_truncate before truncate on aegis.audit_record
    for each statement execute function aegis.refuse_change();
-- Ordinary triggers are skipped under session_replication_role = replica; these are not.
alter table aegis.audit_record enable always trigger audit_record_no_change;
alter table aegis.audit_record enable always trigger audit_record_no_truncate;

-- The server's role gets every right on new tables by default (see aegis.local.cluster); of this one
-- it keeps SELECT and INSERT. An installation with other roles says the same with its own grants.
do $$
begin
    if exists (select from pg_roles where rolname = 'aegis_server') then
        revoke update, delete, truncate on aegis.audit_record from aegis_server;
    end if;
end $$;
