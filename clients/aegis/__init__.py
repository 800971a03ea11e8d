"""The contract every Aegis program speaks: stubs, signed envelopes, errors, channels."""
