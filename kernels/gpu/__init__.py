"""Kernels for CUDA tensors: Triton. Importing this package alone needs no Triton."""
