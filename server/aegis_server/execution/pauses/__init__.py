"""The kill switch: where nothing is begun, here and at the executor."""
