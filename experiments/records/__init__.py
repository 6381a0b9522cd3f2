"""Files of a run: log, checkpoints and models; and the ledger of all runs."""
