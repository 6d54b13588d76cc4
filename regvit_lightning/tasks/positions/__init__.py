"""How much of the features of patches their position explains, with and without the position embedding."""
