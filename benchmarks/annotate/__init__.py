"""What is known of each test image, kept beside the results: `python -m benchmarks.annotate`."""
