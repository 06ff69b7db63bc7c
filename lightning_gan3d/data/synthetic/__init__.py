"""Procedural figures with known shape, pose and depth."""
