"""`aegis`: the control plane from a terminal."""
