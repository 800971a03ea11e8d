"""An application that can be held up or turned bad."""
