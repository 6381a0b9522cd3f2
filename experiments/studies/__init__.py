"""One file a study, each with a `get_study()`."""
