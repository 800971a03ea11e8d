"""Whole runs in one process, without a server: `python -m aegis_server.training.simulation`."""
