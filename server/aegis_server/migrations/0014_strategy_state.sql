-- What a strategy remembers from round to round (the moments of FedAdam): the SHA-256 of a
-- safetensors file among the blobs, as the model's; empty for strategies that remember nothing.
alter table aegis.run_round
    add column state_sha256 bytea not null default ''
        check (length(state_sha256) in (0, 32));
