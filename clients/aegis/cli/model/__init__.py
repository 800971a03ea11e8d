"""`aegis model`: which models there are, where each comes from, and their bytes."""

from aegis.cli.model.commands import app

__all__ = ["app"]
