-- What scores updates, version by version. A row in state 'training' is a job that some server does.
create sequence aegis.review_detector_number;
create table aegis.review_detector (
    seq bigint generated always as identity unique,
    version text primary key default 'v' || nextval('aegis.review_detector_number'),
    state text not null check (
        state in ('training', 'trained', 'failed', 'shadow', 'champion', 'retired', 'rolled_back')
    ),
    -- Null for the one that ships.
    request_id text unique,
    -- Whose updates it learns from; empty: all.
    dataset text not null default '',
    target_fpr double precision not null check (target_fpr > 0 and target_fpr <= 0.2),
    seed bigint not null default 0,
    -- Of its file, a blob; null until there is one, and for the one that ships.
    sha256 bytea check (length(sha256) = 32),
    -- Why it failed or was rolled back.
    reason text not null default '',
    updates int not null default 0,
    rounds int not null default 0,
    participants int not null default 0,
    -- By attack: rates, null where none is known.
    measured jsonb not null default '[]',
    progress double precision not null default 0 check (progress between 0 and 1),
    -- How often a server began with it.
    attempts int not null default 0,
    created_by text not null,
    created_at timestamptz not null,
    promoted_by text not null default '',
    promoted_at timestamptz,
    -- Which one decided before it: what a roll-back goes to.
    former text references aegis.review_detector
);
create index review_detector_training on aegis.review_detector (seq) where state = 'training';
-- Whatever replicas promote at the same moment: one decides, and one at most scores beside it.
create unique index review_detector_champion on aegis.review_detector (state)
    where state = 'champion';
create unique index review_detector_shadow on aegis.review_detector (state) where state = 'shadow';
insert into aegis.review_detector (version, state, target_fpr, created_by, created_at)
values ('builtin', 'champion', 0.03, 'server:aegis', now());

-- What detectors made of each update; 1 is where rejection begins.
create table aegis.review_score (
    update_id text not null references aegis.review_update,
    detector text not null references aegis.review_detector,
    score double precision not null,
    -- False for a shadow, and where the round as a whole went to a fallback.
    decided boolean not null,
    scored_at timestamptz not null,
    primary key (update_id, detector)
);
create index review_score_decided on aegis.review_score (detector, scored_at) where decided;
