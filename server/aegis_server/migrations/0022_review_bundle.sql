-- The signed evidence bundle of an update, made when somebody first asked for it: from then on its
-- bytes, a blob of that name, are the only ones that are ever handed out.
create table aegis.review_bundle (
    update_id text primary key references aegis.review_update,
    sha256 bytea not null check (length(sha256) = 32),
    size_bytes bigint not null check (size_bytes > 0),
    created_at timestamptz not null
);
