"""Arms: other blocks and poolings that are said to remove artifacts, one file for each mechanism."""
