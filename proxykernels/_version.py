"""The version, which setup.py and CMake read without an import."""

__version__ = "0.2.0"
