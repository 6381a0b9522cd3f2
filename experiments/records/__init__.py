"""What a run writes and reads back, and the ledger."""
