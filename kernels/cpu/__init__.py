"""Kernels for CPU tensors: C++ behind a plain C interface, and the reference code where it was not built."""

from .backend import load

__all__ = ["load"]
