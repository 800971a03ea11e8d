"""The witness: remembers the last checkpoint of each log, and cosigns only what continues it."""
