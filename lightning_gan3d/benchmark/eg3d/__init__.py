"""The benchmark beside the official EG3D: agreement, speed, memory."""
