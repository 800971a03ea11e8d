"""Logistic regression over several sites: a Flower application as its users write them."""
