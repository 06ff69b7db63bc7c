"""Photographs of objects on a turntable."""
