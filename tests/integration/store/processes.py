"""Workers as processes of their own, for the concurrency tests: python -m tests.integration.store.processes MODE ...

`grab` claims everything it is told of; `hold` claims, waits to be told and commits late; `stick` stays in the middle of
the transaction of its claim; `work` does what workers do, and now and then what they should not: stall beyond its
lease, commit late, commit twice, release, cancel.
"""

import json
import random
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

from models import dialects
from models.batch_store import BatchStore
from models.claims import Claims
from models.database import Database
from models.errors import DatabaseUnavailable
from models.records import ClaimedJob, Outcome
from models.status import FINAL_BATCH, Status
from models.store import Store
from models.suspects import Level
from tests.integration.store.making import choice, new_worker

LEASE_SECONDS = 0.5
GIVE_UP_SECONDS = 60.0


def grab(url: str, seed: str, ids: Sequence[UUID]) -> object:
    """Claim all ids, in small runs of an order of one's own. Says which came."""
    claims = Claims(Database(url))
    worker_id = new_worker(claims, slot=f"grab/{seed}")
    order = random.Random(seed).sample(ids, len(ids))
    say_and_wait("ready")
    claimed = [job for start in range(0, len(order), 7) for job in claims.claim(worker_id, order[start : start + 7])]
    return [[job.id.hex, job.attempt] for job in claimed]


def hold(url: str, seed: str, ids: Sequence[UUID]) -> object:
    """Claim, stall beyond the lease, then commit all the same. Says how many of the writes counted."""
    claims = Claims(Database(url))
    worker_id = new_worker(claims, slot=f"hold/{seed}", lease_seconds=0.05)
    claimed = claims.claim(worker_id, ids)
    say_and_wait(str(len(claimed)))
    result = claims.commit(worker_id, [outcome(job, "late") for job in claimed])
    return {"applied": len(result.applied), "fenced": len(result.fenced)}


def stick(url: str, seed: str, ids: Sequence[UUID]) -> object:
    """Claim, and never come to the commit."""
    database = Database(url)
    worker_id = new_worker(Claims(database), slot=f"stick/{seed}")
    with database.transaction() as connection:
        claimed = dialects.of(connection).claim(connection, worker_id, ids, Level.NONE)
        say_and_wait(str(len(claimed)))
    return None


def work(url: str, seed: str, batch_ids: Sequence[UUID]) -> object:
    """Work until the batch is final. Says which outcomes counted, under which attempt, and how many were refused."""
    worker = Careless(url, seed)
    say_and_wait("ready")
    give_up_at = time.monotonic() + GIVE_UP_SECONDS
    while not all(worker.is_final(batch_id) for batch_id in batch_ids) and time.monotonic() < give_up_at:
        with suppress(DatabaseUnavailable):  # stopped in the middle of a transaction, which the server then ended
            worker.turn()
    worker.write_late()
    return {"applied": worker.applied, "num_fenced": worker.num_fenced}


class Careless:
    """A worker that mixes what is right with what goes wrong."""

    def __init__(self, url: str, seed: str) -> None:
        database = Database(url)
        self.store, self.batches = Store(database), BatchStore(database)
        self.claims = Claims(database, max_attempts=1000)
        self.random, self.seed = random.Random(seed), seed
        self.worker_id = new_worker(self.claims, slot=f"work/{seed}", lease_seconds=LEASE_SECONDS)
        self.late: list[tuple[UUID, list[ClaimedJob]]] = []
        self.applied: list[list[object]] = []
        self.num_fenced = 0

    def is_final(self, batch_id: UUID) -> bool:
        """Whether there is nothing left to do."""
        batch = self.batches.get(batch_id)
        return batch is not None and batch.status in FINAL_BATCH

    def turn(self) -> None:
        """One round: renew, reap, claim, and do something with what came."""
        if not self.claims.heartbeat(self.worker_id, lease_seconds=LEASE_SECONDS):
            self.begin_again()
        self.claims.reap()
        hints = self.store.take_unpublished(16)
        claimed = self.claims.claim(self.worker_id, [hint.id for hint in hints])
        if not claimed:
            self.store.unpublish_queued(older_than_seconds=0.2)
            time.sleep(0.01)
        self.random.choice([self.finish, self.finish, self.finish_twice, self.give_back, self.stall, self.cancel])(
            claimed
        )

    def finish(self, claimed: list[ClaimedJob]) -> None:
        """Commit, as one should."""
        self.write(self.worker_id, claimed)

    def finish_twice(self, claimed: list[ClaimedJob]) -> None:
        """Commit, lose the answer, commit again."""
        self.write(self.worker_id, claimed)
        again = self.claims.commit(self.worker_id, [outcome(job, self.seed) for job in claimed])
        assert not again.applied, "a repeated commit counted twice"

    def give_back(self, claimed: list[ClaimedJob]) -> None:
        """Release half, commit the rest."""
        half = claimed[: len(claimed) // 2]
        self.claims.release(self.worker_id, [job.id for job in half])
        self.write(self.worker_id, claimed[len(half) :])

    def stall(self, claimed: list[ClaimedJob]) -> None:
        """Lose the lease and keep the results, to write them when others may have done the work."""
        self.claims.heartbeat(self.worker_id, lease_seconds=0)
        self.write_late()
        self.late.append((self.worker_id, claimed))
        self.begin_again()

    def cancel(self, claimed: list[ClaimedJob]) -> None:
        """Someone cancels a job in the middle of it."""
        for job in claimed[:1]:
            assert self.store.cancel(job.id) in (Status.IN_PROGRESS, Status.CANCELLED, Status.COMPLETED)
        self.write(self.worker_id, claimed)

    def write_late(self) -> None:
        """Write what was held back."""
        for worker_id, claimed in self.late:
            self.write(worker_id, claimed)
        self.late = []

    def write(self, worker_id: UUID, claimed: list[ClaimedJob]) -> None:
        """Commit and note what counted."""
        result = self.claims.commit(worker_id, [outcome(job, self.seed) for job in claimed])
        self.applied += [[job.id.hex, job.attempt] for job in claimed if job.id in result.applied]
        self.num_fenced += len(result.fenced)

    def begin_again(self) -> None:
        """Become a new incarnation."""
        self.worker_id = new_worker(self.claims, slot=f"work/{self.seed}", lease_seconds=LEASE_SECONDS)


def outcome(job: ClaimedJob, who: str) -> Outcome:
    """A completion that says who made it, at which attempt."""
    return Outcome(job.id, job.attempt, Status.COMPLETED, (choice(f"{who}/{job.attempt}"),))


def say_and_wait(word: str) -> None:
    """Tell the test that we are here, and wait for its sign."""
    sys.stdout.write(word + "\n")
    sys.stdout.flush()
    sys.stdin.readline()


if __name__ == "__main__":
    mode, url, seed, *texts = sys.argv[1:]
    answer = {"grab": grab, "hold": hold, "stick": stick, "work": work}[mode](url, seed, [UUID(text) for text in texts])
    sys.stdout.write(json.dumps(answer) + "\n")
