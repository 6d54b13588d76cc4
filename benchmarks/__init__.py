"""The programs: `python -m benchmarks.<name> key=value …`."""

import os

# Waiting OpenMP threads must not spin while image decoders need the core: 1.3x on a short CPU run with one worker.
# It has to stand before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
