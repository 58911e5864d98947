"""From a request's body to a committed job, and to the answer of whoever waits for it."""
