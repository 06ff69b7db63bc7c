"""Fused kernels of the volume renderer, by device; `renderers.backends` chooses."""
