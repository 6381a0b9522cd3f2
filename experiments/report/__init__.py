"""Tables and figures from the ledger."""
