"""Shared by all packages: errors, files, console, devices, the process."""
