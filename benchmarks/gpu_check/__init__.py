"""What a GPU does with the suite, in minutes: `python -m benchmarks.gpu_check`."""
