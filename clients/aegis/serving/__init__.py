"""What every Aegis program that serves gRPC needs: doors, metrics, TLS, Postgres."""
