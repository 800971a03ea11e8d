"""What training has cost the rows of a data set, by participant, against limits."""
