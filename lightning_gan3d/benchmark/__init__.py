"""Speed, memory, cost and growth, measured alike for every representation."""

import os

# The profiler that records the allocator would log missing GPUs and unknown releases. Torch reads
# these once, when first imported.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
