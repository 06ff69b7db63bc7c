"""Sweeps: configurations x seeds, run as local processes."""
