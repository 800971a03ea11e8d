"""The attack lab: whole federated runs under attack, in numpy, to measure the review with.

The loop is closed: what the gate lets in moves the model that the next round starts from, so a
detector that rejects the honest ruins its own run, as it would in a hospital.
"""
