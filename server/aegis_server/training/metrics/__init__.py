"""What is measured of runs: read from where participants write it, combined, and counted."""
