"""Makes and checks small files that run the network of a complete run."""
