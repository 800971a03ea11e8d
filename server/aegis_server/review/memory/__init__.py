"""What the review remembers of updates it judged: their features and sketches, round by round."""
