"""What a piece of work allocates, counted exactly, whatever the process has allocated before and may use again."""

import gc
import tracemalloc
from itertools import accumulate

from torch.profiler import ProfilerActivity, profile


def allocated(work):
    """Largest sums of bytes that torch, and that numpy and Python, have allocated in `work` at a time."""
    gc.collect()  # or what another row has left is freed in this one
    tracemalloc.start()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    _, of_python = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))), of_python
