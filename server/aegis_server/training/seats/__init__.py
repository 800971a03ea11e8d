"""Who takes part in a run: settled when it is created, and the same until its end."""
