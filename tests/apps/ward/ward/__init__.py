"""An application that trains as Aegis' own does, and can be held up or turned bad."""
