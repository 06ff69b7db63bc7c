"""Fused CPU kernels of the volume renderer, in explicit SIMD over numba."""
