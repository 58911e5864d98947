"""What the routes about batches do beyond one call of the store."""
