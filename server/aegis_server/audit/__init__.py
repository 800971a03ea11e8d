"""The audit room: one append-only chain of everything Aegis decided and did."""
