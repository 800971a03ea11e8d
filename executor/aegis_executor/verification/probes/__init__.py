"""What is asked about a change: each probe is one pure function on what was observed."""
