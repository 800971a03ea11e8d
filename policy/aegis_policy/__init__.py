"""Decisions by rules: Casbin's language, no I/O."""
