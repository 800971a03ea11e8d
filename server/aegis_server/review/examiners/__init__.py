"""Examiners: each looks at a whole round of updates and says what it finds about every one."""
