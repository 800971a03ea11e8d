"""Aegis' own application, in the same hands."""

from __future__ import annotations

from aegis_participant.app import train_round
from ward.client import tried

app = tried(train_round)
