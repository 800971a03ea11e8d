"""How the updates of a round become one: a file a rule, each as its paper defines it.

A rule is a frozen value. What it assumes of the participants it checks when it is made; what it is
given (`Updates`: differences to the base, with a weight each) it checks while it reads them, so
that no rule depends on somebody else having looked before. A result depends on the updates and
their weights, not on the order they came in, and is the same bit for bit on the same machine.

Updates are read in blocks of columns that stay in the processor's cache. Nothing of the size of all
updates is ever copied, so they may be files that are larger than memory.
"""
