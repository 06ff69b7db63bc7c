"""Checkpoints: whole or absent, checked, and free of code."""
