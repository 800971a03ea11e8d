-- Programs without a certificate; policies and the audit log know one as service:NAME.
create table aegis.service_account (
    name text primary key check (name ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    -- An account that is made again under the name of a deleted one is another account.
    number bigint generated always as identity unique,
    description text not null,
    roles text[] not null,
    disabled boolean not null default false,
    created_at timestamptz not null,
    revision bigint not null default 1
);

-- Only digests: who reads this table cannot call with a key of it.
create table aegis.api_key (
    key_id text primary key check (key_id ~ '^[a-z2-7]{12}$'),
    number bigint generated always as identity unique,
    service_account text not null references aegis.service_account on delete cascade,
    digest bytea not null check (length(digest) = 32),
    -- None at all means whatever the account may.
    scopes text[] not null,
    created_at timestamptz not null,
    ends_at timestamptz not null,
    -- To the minute, written some time later, and no change of who is who.
    last_used_at timestamptz,
    revoked_at timestamptz
);
create index api_key_of_account on aegis.api_key (service_account, number);
