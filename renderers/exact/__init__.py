"""Backends of the exact renderer of solids.

`grid_walk` (numba) and `opengl` (moderngl) make equal images; `mitsuba_backend` traces paths.
"""
