"""People's words about actions: who has to approve, who may, and what they said."""
