"""The compliance report: what a copy of the logs shows, and which articles that speaks to."""
