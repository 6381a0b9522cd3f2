"""Measurements of speed and memory, printed as tables of ratios."""
