"""Triton kernels for CUDA tensors. Importing the package itself needs no Triton."""
