"""Triton kernels of the networks, for CUDA; each says which operations of torch it stands for."""
