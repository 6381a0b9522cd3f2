"""Published recipes of other papers' methods, one a file."""
