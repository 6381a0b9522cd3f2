"""MetaQuant in JAX."""
