"""Data sets: schemas that sites pin, and rows by which models are judged."""
