-- What actions are counted and found by, and when the executor was last asked about one: asking is no
-- change, so updated_at no longer tells. Older actions have no verb and are counted in totals only.
alter table aegis.action
    add column verb text not null default '',
    add column namespace text not null default '',
    add column asked_at timestamptz;
update aegis.action set asked_at = updated_at where state = 2;
drop index aegis.action_open;
create index action_open on aegis.action (asked_at) where state in (2, 3);
create index action_not_healed on aegis.action (updated_at) where state in (5, 6, 13, 14, 15, 16);
create index action_glass on aegis.action (issuer, created_at) where break_glass;

-- From now on every envelope is spent here.
insert into aegis.action_envelope (key_id, nonce, action_id, envelope, at)
    select key_id, nonce, action_id, request_envelope, created_at from aegis.action
    on conflict do nothing;

-- Refusals that left no action behind, to be counted; the audit log has who and why.
create table aegis.action_refusal (
    number bigint generated always as identity primary key,
    at timestamptz not null,
    reason text not null
);
create index action_refusal_at on aegis.action_refusal (at);
