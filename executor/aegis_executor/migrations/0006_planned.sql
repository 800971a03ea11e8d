-- What the change was planned to do, e.g. the replicas before: when its answer is lost, what is found
-- out later has to know it too, or nothing could be taken back.
alter table aegis_executor.attempt add column observations jsonb not null default '{}';
