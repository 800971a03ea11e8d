"""A sandbox Kubernetes API on loopback, for demos and tests. Not a cluster."""
