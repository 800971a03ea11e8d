"""The identity room: who is calling, and whose signatures count."""
