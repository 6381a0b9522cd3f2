"""Reproduces the papers. It imports mq_jax; mq_jax does not import it."""
