"""The training room: federated runs and their coordinators."""
