"""Fused GPU kernels of the volume renderer, in Triton."""
