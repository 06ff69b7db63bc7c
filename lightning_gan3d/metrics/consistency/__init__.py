"""View consistency: reprojection, flicker, refitted fields."""
