"""People whom an OpenID provider vouches for."""
