"""Checkpoints: written atomically, verified, free of executable code."""
