-- Who is who. Name and address of a person are in this file's first table and nowhere else; policies
-- and the audit log know a person by a pseudonym, so a deleted row takes everything personal along.
create table aegis.person (
    user_id text primary key check (user_id ~ '^u-[a-z2-7]{10}$'),
    -- The order in which accounts were made.
    number bigint generated always as identity unique,
    email text not null,
    -- The address in lower case: two spellings of one address are one account.
    email_key text not null unique,
    display_name text not null,
    roles text[] not null,
    disabled boolean not null default false,
    -- None before the invitation is taken.
    password_hash text,
    created_at timestamptz not null,
    last_login_at timestamptz,
    revision bigint not null default 1
);

-- A session is a family of refresh tokens, each spent for the next.
create table aegis.session (
    session_id text primary key,
    user_id text not null references aegis.person on delete cascade,
    created_at timestamptz not null,
    ends_at timestamptz not null,
    revoked_at timestamptz
);
create index session_of_user on aegis.session (user_id);
create index session_revoked on aegis.session (revoked_at) where revoked_at is not null;

-- Only digests: who reads this table cannot log in with it. A spent token is kept as long as its
-- session, because its second use is how a theft shows.
create table aegis.refresh_token (
    digest bytea primary key check (length(digest) = 32),
    session_id text not null references aegis.session on delete cascade,
    ends_at timestamptz not null,
    spent_at timestamptz
);
create index refresh_token_session on aegis.refresh_token (session_id);

-- Deleted when used. Only the one that makes the first administrator belongs to nobody, and only it
-- has no end.
create table aegis.one_time_token (
    digest bytea primary key check (length(digest) = 32),
    purpose text not null check (purpose in ('bootstrap', 'invitation', 'reset')),
    user_id text references aegis.person on delete cascade,
    created_at timestamptz not null,
    ends_at timestamptz,
    check ((purpose = 'bootstrap') = (user_id is null)),
    check ((purpose = 'bootstrap') = (ends_at is null))
);
create index one_time_token_user on aegis.one_time_token (user_id);

-- Every change of who is who locks this row first and counts it up, so changes follow one another and
-- each server sees within a second that there was one.
create table aegis.identity_version (
    only_one boolean primary key default true check (only_one),
    version bigint not null
);
insert into aegis.identity_version (version) values (1);

do $$
begin
    if exists (select from pg_roles where rolname = 'aegis_server') then
        revoke insert, delete on aegis.identity_version from aegis_server;
    end if;
end $$;
