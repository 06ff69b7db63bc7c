"""Distances between sets of images: FID, KID, SWD, precision and recall."""
