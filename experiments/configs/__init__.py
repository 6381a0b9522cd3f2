"""Configurations, one file per network or data set: `get_config()`."""
