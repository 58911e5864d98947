"""The whole service beside the bare engine and beside what a user would otherwise write."""
