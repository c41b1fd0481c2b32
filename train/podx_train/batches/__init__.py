"""Training records and batches."""
