"""A job's text on its way to whoever listens: the feed in Redis, the table behind it, server-sent events."""
