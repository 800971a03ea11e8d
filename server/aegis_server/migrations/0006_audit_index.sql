-- What records are looked up by, and the tree over them. Row for row it follows from audit_record:
-- the hashes in `subtrees` are those of the perfect subtrees that a record completes (RFC 6962).
create table aegis.audit_index (
    idx bigint primary key,
    actor text not null,
    action text not null,
    resource text not null,
    outcome text not null,
    subtrees bytea not null check (length(subtrees) % 32 = 0)
);
create index audit_index_actor on aegis.audit_index (actor, idx);
create index audit_index_resource on aegis.audit_index (resource text_pattern_ops, idx);
-- Records come in the order of their times: a few bytes a page suffice.
create index audit_record_at on aegis.audit_record using brin (at) with (pages_per_range = 8);

-- A fork is two records with one predecessor; that chain hashes differ follows.
alter table aegis.audit_record drop constraint audit_record_chain_hash_key;

-- What a person may ask to be erased: free text, and signed requests that may hold some. The record
-- keeps SHA-256(salt || content).
create table aegis.audit_attachment (
    idx bigint not null,
    name text not null,
    salt bytea not null check (length(salt) = 16),
    content bytea not null,
    primary key (idx, name)
);

create trigger audit_index_no_change before update or delete on aegis.audit_index
    for each row execute function aegis.refuse_change();
create trigger audit_index_no_truncate before truncate on aegis.audit_index
    for each statement execute function aegis.refuse_change();
-- Erased, never replaced by something else, and never all of them at once.
create trigger audit_attachment_no_change before update on aegis.audit_attachment
    for each row execute function aegis.refuse_change();
create trigger audit_attachment_no_truncate before truncate on aegis.audit_attachment
    for each statement execute function aegis.refuse_change();
alter table aegis.audit_index enable always trigger audit_index_no_change;
alter table aegis.audit_index enable always trigger audit_index_no_truncate;
alter table aegis.audit_attachment enable always trigger audit_attachment_no_change;
alter table aegis.audit_attachment enable always trigger audit_attachment_no_truncate;

-- See 0001_audit.sql.
do $$
begin
    if exists (select from pg_roles where rolname = 'aegis_server') then
        revoke update, delete, truncate on aegis.audit_index from aegis_server;
        revoke update, truncate on aegis.audit_attachment from aegis_server;
    end if;
end $$;
