-- Runs that wait to be started, and runs that are paused: aegis.v1.Run.State up to PAUSED.
alter table aegis.run drop constraint run_state_check;
alter table aegis.run add constraint run_state_check check (state between 1 and 9);
drop index aegis.run_open;
-- What a starting server takes up again: STARTING, RUNNING, STOPPING, PAUSING.
create index run_open on aegis.run (run_id) where state in (1, 2, 3, 8);
-- Of the StartRun that started a run CreateRun recorded.
alter table aegis.run add column start_request_id uuid unique;
