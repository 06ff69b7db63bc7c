"""Speed, memory, counts, and how they grow: measured alike for every representation."""

import os

# The allocator's record is read through torch's profiler, which would tell of the GPUs that it did
# not find and of memory that is older than the record. Read once, when torch is first imported.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
