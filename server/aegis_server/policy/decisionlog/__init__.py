"""Every answer of the policy, written in batches, and evidence that nobody changed them since."""

from aegis_server.policy.decisionlog.entry import Entry, privileged
from aegis_server.policy.decisionlog.log import DecisionLog
from aegis_server.policy.decisionlog.retention import Retention

__all__ = ["DecisionLog", "Entry", "Retention", "privileged"]
