"""Tasks: what participants are asked to do in a round, on its way to them and back."""
