"""The attentive probe: its heads, their grid on a frozen backbone, and the protocol around them."""
