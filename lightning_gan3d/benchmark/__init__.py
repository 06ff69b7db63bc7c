"""Benchmarks: speed, memory, cost and growth, by one protocol for all representations."""

import os

# Silence the profiler about missing GPUs and unknown releases. Torch reads these at its import.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
