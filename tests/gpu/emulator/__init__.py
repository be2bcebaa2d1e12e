"""Compiled Triton kernels, executed without a GPU (README.md here)."""
