"""A run of many jobs, long enough to see whether anything grows or slows down."""
