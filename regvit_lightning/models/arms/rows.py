"""What the rows of an attention matrix are, which some arms change."""

SHARES = "shares"  # they sum to 1
PARTIAL = "partial"  # weights from 0 to 1 with another sum: a key is no token, or weights are clipped
SIGNED = "signed"  # differences, which may be negative
