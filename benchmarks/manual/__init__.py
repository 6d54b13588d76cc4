"""What a program says of its settings: `--help` and `--print-config`."""
