"""Runtime services shared by all programs: files, signals, seeds, hardware, Slurm, checkpoints."""
