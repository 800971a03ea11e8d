-- What a search for backdoors found in a round's model: aegis.v1.TriggerScan; empty without review.
alter table aegis.run_round add column scan bytea not null default '';

-- Why a model may not leave: it seems to hold a backdoor. Empty when it may.
alter table aegis.model
    add column blocked text not null default '',
    -- Who let it go after all, when, and why.
    add column released_by text not null default '',
    add column release_reason text not null default '',
    add column released_at timestamptz,
    add check (released_by = '' or (blocked <> '' and released_at is not null));
