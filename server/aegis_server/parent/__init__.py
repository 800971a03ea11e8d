"""The parent of worker processes: it starts them, watches them, and answers nobody itself.

A worker is a replica like any other: it shares Postgres, Redis, the data folder and the port with
its siblings, and nothing with its parent but a pipe by which each notices that the other is gone.
"""
