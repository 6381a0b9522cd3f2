"""Speed and memory, measured and printed as tables of ratios."""
