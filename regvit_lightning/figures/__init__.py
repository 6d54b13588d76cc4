"""Pictures from arrays; nothing here loads data."""
