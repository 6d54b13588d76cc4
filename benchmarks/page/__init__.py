"""Parts of the report's HTML page, each from records alone."""
