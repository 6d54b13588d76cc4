"""Documentation of a program's settings: `--help` and `--print-config`."""
