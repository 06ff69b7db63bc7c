KINDS = ("triplane", "voxel", "nerf_mlp", "image2d", "splats")
