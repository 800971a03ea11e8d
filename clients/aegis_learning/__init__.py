"""What both sides of training must agree on: models, data, encodings, arithmetic. No I/O."""
