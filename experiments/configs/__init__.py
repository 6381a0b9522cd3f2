"""Configurations. Each file has a function `get_config`."""
