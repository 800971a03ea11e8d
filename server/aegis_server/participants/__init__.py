"""Who takes part in training, what they hold, and what runs may be about."""
