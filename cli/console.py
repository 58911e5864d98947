"""Standard output: data, and nothing but data."""

import os
import sys

EXIT_FAILURE = 1


def write_out(text: str) -> None:
    """Data goes to stdout; a reader that closed the pipe ends us quietly."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(EXIT_FAILURE) from None
