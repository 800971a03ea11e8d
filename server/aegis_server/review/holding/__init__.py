"""Held updates: who decides about them, until when, and what is decided otherwise."""
