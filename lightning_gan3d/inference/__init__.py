"""Use a generator: images, raw images, depth and opacity."""
