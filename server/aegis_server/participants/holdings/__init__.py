"""Holdings: what participants say they have, and how much of it counts."""
