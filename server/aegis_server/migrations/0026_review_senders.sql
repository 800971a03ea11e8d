-- Who sent an update: a participant, a coordinator, or somebody in its participant's name. Empty for
-- those that were sent before this was kept; the audit log has it of all.
alter table aegis.review_update add column sent_by text not null default '';
