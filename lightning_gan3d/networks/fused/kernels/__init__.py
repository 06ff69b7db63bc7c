"""Kernels of the synthesis layers on a CPU, over rows of pixels with their channels innermost."""
