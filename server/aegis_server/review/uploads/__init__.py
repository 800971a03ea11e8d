"""Uploads: updates on their way in, and how many of them a sender may have."""
