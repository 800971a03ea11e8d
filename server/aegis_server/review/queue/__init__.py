"""The queue of rounds: examined here, or by workers on other machines."""
