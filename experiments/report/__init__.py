"""Tables and figures, made from the ledger alone."""
