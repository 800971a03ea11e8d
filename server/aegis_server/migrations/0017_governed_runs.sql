-- Runs that wait to be started, and runs that are paused: aegis.v1.Run.State up to PAUSED.
alter table aegis.run drop constraint run_state_check;
alter table aegis.run add constraint run_state_check check (state between 1 and 9);
drop index aegis.run_open;
-- What a starting server takes up again: STARTING, RUNNING, STOPPING, PAUSING.
create index run_open on aegis.run (run_id) where state in (1, 2, 3, 8);
alter table aegis.run
    -- Of the StartRun that started it; null while nobody has.
    add column start_request_id uuid unique,
    -- Who recorded it; `actor` is who started it.
    add column creator text not null default '',
    -- Coordinators up to this one have told everything they asked for: a pause loses nothing.
    add column attempt_settled int not null default 0,
    -- Private steps of the participant that took most, as settled when the run ended.
    add column steps_settled int;
update aegis.run set start_request_id = request_id, creator = actor;

-- Until now every participant was asked for the same.
update aegis.run_participant p set steps = asked.steps
from (
    select run_id, round, steps - lag(steps, 1, 0) over (partition by run_id order by round) as steps
    from aegis.run_round
) asked
where asked.run_id = p.run_id and asked.round = p.round;
