"""The model and the rows of a site."""

import numpy as np
from sklearn.datasets import load_breast_cancer


def load(partition, partitions):
    """Returns this site's rows, scaled, and their labels."""
    x, y = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    order = np.random.default_rng(0).permutation(len(x))[partition::partitions]
    return x[order], y[order].astype(float)


def initial():
    """Returns a model that knows nothing."""
    return {"weights": np.zeros(30), "bias": np.zeros(1)}


def predict(model, x):
    """Returns the probability of each row."""
    return 1 / (1 + np.exp(-(x @ model["weights"] + model["bias"])))


def fit(model, x, y, steps, learning_rate):
    """Returns the model after some steps of gradient descent."""
    weights, bias = model["weights"].copy(), model["bias"].copy()
    for _ in range(steps):
        error = predict({"weights": weights, "bias": bias}, x) - y
        weights -= learning_rate * x.T @ error / len(x)
        bias -= learning_rate * error.mean()
    return {"weights": weights, "bias": bias}


def accuracy(model, x, y):
    """Returns the share of rows that are predicted right."""
    return float(((predict(model, x) > 0.5) == y).mean())
