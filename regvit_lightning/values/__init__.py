"""Values of settings: their notation, and how the types of a dataclass parse them."""
