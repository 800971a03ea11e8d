"""Models that runs made, and where each comes from."""
