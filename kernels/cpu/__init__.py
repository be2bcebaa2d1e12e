"""Kernels for CPU tensors: C++ behind a plain C interface, and the reference code where it was not built."""

from .. import forks  # noqa: F401  registers what is done before a fork
from .backend import load
from .compiled import TARGETS, install_command

__all__ = ["TARGETS", "install_command", "load"]
