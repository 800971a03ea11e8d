"""The execution room: signed requests, decided and dispatched."""
