"""What the review found over time, counted: for people who run it and for those who guard it."""
