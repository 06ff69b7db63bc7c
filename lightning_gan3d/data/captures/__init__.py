"""Own images with poses: COLMAP, transforms.json."""
