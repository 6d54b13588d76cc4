"""What every process needs: files, signals, seeds, hardware, Slurm, checkpoints."""
