"""One file per study, each with a `get_study()`."""
