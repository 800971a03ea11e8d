"""The executor: the only program that holds Kubernetes credentials."""
