-- Who takes part in training, what they hold, and what runs may be about.
create table aegis.participant (
    name text primary key check (name ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    -- Flower's name for it; never used twice, and 0 is the server's own.
    node_id bigint generated always as identity (start with 1001) unique,
    -- aegis.v1.Participant.State
    state smallint not null check (state between 1 and 3),
    invited_by text not null,
    invited_at timestamptz not null,
    -- SHA-256 of the invitation's secret, and of the key that redeemed it.
    secret_sha256 bytea not null check (length(secret_sha256) = 32),
    invitation_ends_at timestamptz not null,
    redeemed_key_sha256 bytea check (length(redeemed_key_sha256) = 32),
    enrolled_at timestamptz,
    revoked_at timestamptz,
    reason text not null default '',
    software text not null default ''
);

create index participant_by_secret on aegis.participant (secret_sha256);

-- Counts every change of who may take part, so that servers know when to read it again.
create table aegis.participant_version (
    only_row boolean primary key default true check (only_row),
    version bigint not null
);
insert into aegis.participant_version (version) values (1);

-- Every certificate a participant was ever given: who shows another is not it.
create table aegis.participant_certificate (
    -- aegis.spiffe.certificate_name
    certificate_id text primary key,
    participant text not null references aegis.participant,
    certificate_pem bytea not null,
    key_sha256 bytea not null check (length(key_sha256) = 32),
    issued_at timestamptz not null,
    ends_at timestamptz not null
);
create index participant_certificate_of on aegis.participant_certificate (participant, issued_at);

-- Data sets that were registered; those that ship have no row. Never changed.
create table aegis.dataset (
    name text primary key,
    -- Canonical JSON of the schema (aegis_learning.schema), and its SHA-256.
    schema bytea not null,
    schema_sha256 bytea not null check (length(schema_sha256) = 32),
    description text not null,
    provenance text not null,
    consent_basis text not null,
    public boolean not null,
    owner text not null,
    created_at timestamptz not null,
    -- A safetensors file among the blobs: golden.x, golden.y, test.x, test.y.
    evaluation_sha256 bytea not null check (length(evaluation_sha256) = 32),
    golden_rows int not null,
    test_rows int not null
);

-- What a participant was invited for, and what it then declared to hold.
create table aegis.holding (
    participant text not null references aegis.participant,
    dataset text not null,
    rows_max bigint not null check (rows_max > 0),
    -- Null until declared.
    rows bigint check (rows > 0),
    class_counts bigint[] not null default '{}',
    noised boolean not null default false,
    provenance text not null default '',
    declared_at timestamptz,
    primary key (participant, dataset)
);

-- Which server has a participant's stream, and since when: the newest wins.
create table aegis.attendance (
    participant text primary key references aegis.participant,
    -- Of the stream; a new one replaces it.
    stream_id text not null,
    since timestamptz not null,
    seen_at timestamptz not null,
    clock_offset_seconds double precision not null default 0
);
