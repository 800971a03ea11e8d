"""What keeps a governed remediation from doing harm by being right too often.

Everything is a plain function on a `History` and a time: one query loads it in the transaction of
the claim, under one lock, so nobody counts and then acts on what somebody else has changed.
"""

from aegis_executor.catalogue.base import Gate
from aegis_executor.guards.epoch import Epoch
from aegis_executor.guards.gates import Asked
from aegis_executor.guards.guards import Guards

__all__ = ["Asked", "Epoch", "Gate", "Guards"]
