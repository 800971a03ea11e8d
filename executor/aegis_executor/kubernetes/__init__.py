"""The executor's port to Kubernetes: what may leave, how it is sent, what the answer means."""

from aegis_executor.kubernetes.client import Kubernetes
from aegis_executor.kubernetes.config import configuration
from aegis_executor.kubernetes.errors import (
    ClusterRefused,
    ClusterSilent,
    ClusterUnreachable,
    ForbiddenRequest,
)
from aegis_executor.kubernetes.gate import Gate, Nodes, Reach

__all__ = [
    "ClusterRefused",
    "ClusterSilent",
    "ClusterUnreachable",
    "ForbiddenRequest",
    "Gate",
    "Kubernetes",
    "Nodes",
    "Reach",
    "configuration",
]
