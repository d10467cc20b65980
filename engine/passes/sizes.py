"""How many rows go together; nothing is imported here, as options have them as defaults."""

from __future__ import annotations

BATCH_ROWS = 256
"""Rows of one pass. The last batch of a block is filled up with zeros, so that one shape is compiled and the bits of a
row do not depend on how many rows follow it."""

PASS_ROWS = 1024
"""Rows of one row block of a pass: large enough that a message is cheap beside it, small enough to spread a thousand
rows. Sums over more rows are added block by block."""
