-- The executor's audit log: what it was asked, what it refused, what it did. The executor owns its
-- schema, so here it is the triggers that hold, and checkpoints elsewhere that tell.
create function aegis_executor.refuse_audit_change() returns trigger language plpgsql as $$
begin
    raise exception 'the audit log is append-only' using errcode = 'restrict_violation';
end $$;

create table aegis_executor.audit_record (
    idx bigint primary key check (idx >= 0),
    at timestamptz not null,
    kind smallint not null,
    subject_id text not null,
    record bytea not null,
    leaf_hash bytea not null check (length(leaf_hash) = 32),
    -- A fork would need two records with the same predecessor.
    prev_chain_hash bytea not null unique check (length(prev_chain_hash) = 32),
    chain_hash bytea not null check (length(chain_hash) = 32)
);
create index audit_record_subject on aegis_executor.audit_record (subject_id, idx)
    where subject_id <> '';
create index audit_record_kind on aegis_executor.audit_record (kind, idx);
create trigger audit_record_no_change before update or delete on aegis_executor.audit_record
    for each row execute function aegis_executor.refuse_audit_change();
create trigger audit_record_no_truncate before truncate on aegis_executor.audit_record
    for each statement execute function aegis_executor.refuse_audit_change();
-- Ordinary triggers are skipped under session_replication_role = replica; these are not.
alter table aegis_executor.audit_record enable always trigger audit_record_no_change;
alter table aegis_executor.audit_record enable always trigger audit_record_no_truncate;

-- What records are looked up by, and the tree over them. Row for row it follows from audit_record:
-- the hashes in `subtrees` are those of the perfect subtrees that a record completes (RFC 6962).
create table aegis_executor.audit_index (
    idx bigint primary key,
    actor text not null,
    action text not null,
    resource text not null,
    outcome text not null,
    subtrees bytea not null check (length(subtrees) % 32 = 0)
);
create index audit_index_actor on aegis_executor.audit_index (actor, idx);
create index audit_index_resource on aegis_executor.audit_index (resource text_pattern_ops, idx);
-- Records come in the order of their times: a few bytes a page suffice.
create index audit_record_at on aegis_executor.audit_record using brin (at) with (pages_per_range = 8);

-- What a person may ask to be erased: free text, and signed requests that may hold some. The record
-- keeps SHA-256(salt || content).
create table aegis_executor.audit_attachment (
    idx bigint not null,
    name text not null,
    salt bytea not null check (length(salt) = 16),
    content bytea not null,
    primary key (idx, name)
);

create trigger audit_index_no_change before update or delete on aegis_executor.audit_index
    for each row execute function aegis_executor.refuse_audit_change();
create trigger audit_index_no_truncate before truncate on aegis_executor.audit_index
    for each statement execute function aegis_executor.refuse_audit_change();
-- Erased, never replaced by something else, and never all of them at once.
create trigger audit_attachment_no_change before update on aegis_executor.audit_attachment
    for each row execute function aegis_executor.refuse_audit_change();
create trigger audit_attachment_no_truncate before truncate on aegis_executor.audit_attachment
    for each statement execute function aegis_executor.refuse_audit_change();
alter table aegis_executor.audit_index enable always trigger audit_index_no_change;
alter table aegis_executor.audit_index enable always trigger audit_index_no_truncate;
alter table aegis_executor.audit_attachment enable always trigger audit_attachment_no_change;
alter table aegis_executor.audit_attachment enable always trigger audit_attachment_no_truncate;
