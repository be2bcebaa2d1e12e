"""Shared by the commands: data, networks, tables, accuracy, memory."""

from common import command  # noqa: F401 - Ctrl-C ends a command in one line from here on
