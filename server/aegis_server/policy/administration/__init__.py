"""The rules one by one, their history, and who may change them."""
