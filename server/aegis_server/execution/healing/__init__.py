"""What became of actions, counted."""
