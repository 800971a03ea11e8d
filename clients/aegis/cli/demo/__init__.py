"""`aegis demo`: two governed changes, end to end, in a temporary home."""

from aegis.cli.demo.command import demo

__all__ = ["demo"]
