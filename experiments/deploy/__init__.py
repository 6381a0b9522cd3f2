"""Small files that run, made from a finished run and checked."""
