"""The volume renderer on CUDA in Triton kernels: `renderer.path=triton`."""
