"""What the review's memory of a participant adds up to: reputation, drift, company, quarantine."""
