"""The same sites' work on Flower's own SuperLink, SuperExec and SuperNodes."""
