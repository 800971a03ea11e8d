"""The policy room: decisions, their cache, and the rules behind them."""
