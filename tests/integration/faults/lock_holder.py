"""A program that stops, by its own signal, in the middle of a write to a SQLite database, and commits when it goes on.

python -m tests.integration.faults.lock_holder URL
"""

import os
import signal
import sys

from sqlalchemy import text

from models.database import Database


def main() -> None:
    database = Database(sys.argv[1])
    with database.transaction() as connection:
        connection.execute(text("UPDATE workers SET pid = pid"))
        os.kill(os.getpid(), signal.SIGSTOP)
    database.dispose()


if __name__ == "__main__":
    main()
