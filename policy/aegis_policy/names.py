"""What names look like."""

from __future__ import annotations

import re

SUBJECT = re.compile(r"[a-z][a-z0-9-]{0,31}:[A-Za-z0-9][A-Za-z0-9._@/-]{0,127}")
DOMAIN = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
ACTION = re.compile(r"[a-z][a-z0-9_]{0,62}")
RULE_ID = re.compile(r"[a-z0-9][a-z0-9._#-]{0,79}")
