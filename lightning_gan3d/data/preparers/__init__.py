"""From what a user has of FFHQ, AFHQ, ShapeNet or CelebA-HQ to a checked data set."""
