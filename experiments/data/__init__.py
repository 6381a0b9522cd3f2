"""Data sets: read, prepared on disk, given out in batches."""
