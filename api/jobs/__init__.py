"""What the routes about jobs do beyond one call of the store."""
