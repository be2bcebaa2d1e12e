"""Shared by the commands: data, networks, tables, accuracy, memory."""

from common import interrupt  # noqa: F401 - first of all that takes time
