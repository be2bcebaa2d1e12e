"""Kernels for CPU tensors: C++ behind a plain C interface, and the reference code where it was not built."""

from . import forks  # noqa: F401  registers what is done before a fork
from .abi import TARGETS, install_command
from .backend import load

__all__ = ["TARGETS", "install_command", "load"]
