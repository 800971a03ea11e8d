"""How audit logs are hashed, signed, copied and verified: by anybody, without server or database."""
