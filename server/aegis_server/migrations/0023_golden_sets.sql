-- Versions of the rows that updates are examined with. Version 0 is what its data set was registered
-- with; its row is made when somebody first looks, and its lock is that of all versions.
create table aegis.golden_set (
    dataset text not null,
    version int not null check (version >= 0),
    state text not null check (state in ('draft', 'frozen', 'active', 'retired')),
    -- Of the rows as a safetensors file, which is a blob of this name.
    sha256 bytea not null check (length(sha256) = 32),
    row_count int not null check (row_count > 0),
    class_counts int[] not null,
    description text not null,
    -- Empty where nobody did.
    created_by text not null,
    promoted_by text not null default '',
    -- Null for what ships with Aegis.
    created_at timestamptz,
    promoted_at timestamptz,
    primary key (dataset, version),
    unique (dataset, sha256)
);
-- Whatever replicas promote at the same moment: one is in use.
create unique index golden_set_active on aegis.golden_set (dataset) where state = 'active';
