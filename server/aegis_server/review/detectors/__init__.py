"""Detectors: versions of what scores updates, trained, measured, promoted and taken back."""
