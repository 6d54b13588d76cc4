"""Result tables from records: `python -m benchmarks.tables data=mini`."""
