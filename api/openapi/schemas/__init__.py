"""What answers look like, for the API document alone: answers are rendered without it, and tests hold both together."""
