"""A whole Aegis on one machine: real servers, real processes, its own certificates."""
