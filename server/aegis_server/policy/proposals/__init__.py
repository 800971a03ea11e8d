"""Changes of the rules that wait for a second person."""
