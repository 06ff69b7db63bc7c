"""Prepare FFHQ, AFHQ, ShapeNet and CelebA-HQ."""
