"""What reproduces the papers; imports mq_jax, never the other way round."""
