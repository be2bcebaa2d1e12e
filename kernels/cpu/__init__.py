"""Kernels for CPU tensors: C++ behind a plain C interface, and the reference code where it was not built."""

from .abi import install_command
from .backend import load
from .forks import check_threads

__all__ = ["check_threads", "install_command", "load"]
