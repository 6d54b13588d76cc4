"""The demo: a grid trained and evaluated from nothing, its tables, and how they compare with the kept results."""
