"""Comparison with the official EG3D: agreement, speed and memory."""
