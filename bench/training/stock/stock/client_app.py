"""The ClientApp Aegis' own sites run."""

from aegis_participant.app import app

__all__ = ["app"]
