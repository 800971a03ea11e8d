"""Checkpoints of a program's audit log: cut, signed, kept, and sent where others see them."""
