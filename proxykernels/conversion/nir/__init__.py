"""Graphs of NIR, to and from."""
