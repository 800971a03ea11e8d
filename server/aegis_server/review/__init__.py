"""The review room: evidence and a verdict for every model update."""
