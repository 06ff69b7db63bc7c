"""Shape statistics: depth maps, volumes, meshes."""
