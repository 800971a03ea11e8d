"""A site's side of training: a Flower ClientApp that trains privately."""
