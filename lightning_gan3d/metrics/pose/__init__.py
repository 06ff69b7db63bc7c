"""Pose accuracy and identity."""
