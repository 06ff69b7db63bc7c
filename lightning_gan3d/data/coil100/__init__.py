"""COIL-100: photographs of 100 objects on a turntable."""
