"""People: accounts, passwords, sessions, and the mails that go with them."""
