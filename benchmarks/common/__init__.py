"""Shared by the commands: data, networks, tables, accuracy, memory."""
