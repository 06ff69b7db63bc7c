"""Data: images with cameras, their batches, and the tools that make and check them."""
