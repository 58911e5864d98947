"""Run by test_backlog.py: a backlog whose file may not grow beyond 4 KiB. Says what became of 50 rows."""

import logging
import resource
import tempfile
from pathlib import Path

from tests.unit.worker.test_backlog import finished, take_all
from worker.backlog import Backlog


class Counter(logging.Handler):
    """Counts what is logged."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


def main() -> None:
    counter = Counter()
    logging.getLogger("worker.backlog").addHandler(counter)
    with tempfile.TemporaryDirectory() as folder:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        backlog = Backlog(Path(folder), 1)
        rows = [finished(str(number)) for number in range(50)]
        for each in rows:
            backlog.put(each)
        taken = take_all(backlog)
    same = {each.row.job.id for each in rows} == {each.row.job.id for each in taken}
    texts = {each.outcome.completions[0].text for each in taken}
    print(len(taken), same, len(texts), counter.count)  # noqa: T201


if __name__ == "__main__":
    main()
