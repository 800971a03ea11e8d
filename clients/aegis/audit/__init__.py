"""How audit logs are hashed, signed, copied and verified, without server or database."""
