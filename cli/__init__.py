"""The `batchmill` command. Above everything else; imports what a command needs when the command runs."""
