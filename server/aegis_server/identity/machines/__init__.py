"""Programs that have no certificate: their accounts, and the API keys they call with."""
