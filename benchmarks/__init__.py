"""Measurements of the server, each a command that prints its figures."""
