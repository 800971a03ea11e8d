"""What both sides of training must agree on: parameters, models, data, scores, privacy.

Pure: no network, no Flower, no files written. Server, coordinator, review and participant import
the same functions, so an update means the same to all of them.
"""
