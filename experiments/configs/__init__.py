"""One file a network or a dataset, each with a `get_config()`."""
