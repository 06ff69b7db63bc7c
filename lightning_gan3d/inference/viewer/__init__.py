"""`gan3d view`: a generator in the browser."""
