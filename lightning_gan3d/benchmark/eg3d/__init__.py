"""Agreement, speed and memory beside the official EG3D."""
