"""Prepare images with poses from COLMAP or transforms.json."""
