"""What settings are worth: how values are written, and how the types of a dataclass read them."""
