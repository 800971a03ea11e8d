"""Golden sets: versions of the rows that updates are examined with, and which of them is in use."""
