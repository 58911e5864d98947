"""What a run does: the load, the faults, and for each safety rule one run that is about this rule alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from tests.chaos.load import Mix
from tests.chaos.nemesis import Nemesis
from tests.chaos.proxy import Mode

Script = Callable[[Nemesis], None]


@dataclass(frozen=True)
class Profile:
    """How a run goes: load for as long as the script of faults takes, and `seconds` at most."""

    rule: str
    script: Script
    beside: Script | None = None  # at the same time
    seconds: float = 90.0
    database: str = "postgresql"
    mix: Mix = field(default_factory=Mix)
    lease_seconds: float = 2.0
    rows: int = 12
    step_seconds: float = 0.02
    has_reruns: bool = True  # whether anything happens that has a job begun again
    has_crashes: bool = True  # whether anything happens that is a crash; else no job may be suspected of one
    num_workers: int = 3
    settings: Mapping[str, str] = field(default_factory=dict)


def mixed(nemesis: Nemesis) -> None:
    """Every process and every server, one after the other."""
    faults: dict[Script, float] = {
        Nemesis.kill_worker: 2,
        Nemesis.lose_node: 1,
        Nemesis.freeze_worker: 2,
        Nemesis.drain_worker: 1,
        Nemesis.kill_api: 1,
        Nemesis.flush_redis: 1,
        Nemesis.restart_redis: 1,
        Nemesis.drop_connections: 1,
        Nemesis.restart_postgresql: 1,
    }
    while True:
        nemesis.wait(nemesis.random.uniform(0.3, 2))
        (fault,) = nemesis.random.choices(list(faults), list(faults.values()))
        fault(nemesis)


def network(nemesis: Nemesis) -> None:
    """Every way between two processes, meanwhile."""
    while True:
        nemesis.wait(nemesis.random.uniform(0.5, 3))
        nemesis.random.choice([nemesis.network, nemesis.network, nemesis.partition_worker])()


def fence(nemesis: Nemesis) -> None:
    """Workers that are thought dead and are not: their late writes arrive when others have done the work."""
    for _ in range(2):
        nemesis.wait_for_flow()
        nemesis.partition_worker()
        nemesis.wait(0.5)
        nemesis.wait_for_flow()
        nemesis.freeze_worker()
        nemesis.wait(0.5)


def accept(nemesis: Nemesis) -> None:
    """What was answered is stored, whatever dies right after the answer."""
    database = nemesis.cluster.api.links[1:]
    nemesis.wait(1.5)
    nemesis.kill_api()
    nemesis.wait(1.5)
    nemesis.drop_connections()
    nemesis.wait(0.5)
    nemesis.disturb("client-api", [nemesis.cluster.front], Mode.DROP_REPLIES, 1)
    nemesis.disturb("api-db", database, Mode.RESET, 1)
    nemesis.wait(0.5)
    nemesis.disturb("api-db", database, Mode.DROP_REPLIES, 1)
    nemesis.wait(0.5)
    nemesis.restart_postgresql()
    nemesis.wait(0.5)
    nemesis.kill_api()


def reap(nemesis: Nemesis) -> None:
    """Rows of a machine that is gone go to others; rows of one that lives are left alone, however long they take."""
    nemesis.wait(3)
    nemesis.wait_for_flow()
    node = nemesis.cluster.workers[0]
    with nemesis.noted("worker's machine lost for good"):
        node.lose()
        nemesis.wait(2 * nemesis.lease_seconds + 2)


def claim(nemesis: Nemesis) -> None:
    """Every job is announced to several workers at once; it is begun once all the same."""
    nemesis.repeat_hints(8)


def blame(nemesis: Nemesis) -> None:
    """Workers are cut off, again and again, longer than their leases: no crash, and no job's fault."""
    for _ in range(3):
        nemesis.wait(1)
        nemesis.wait_for_flow()
        cut = nemesis.random.sample(nemesis.cluster.workers, 2)
        proxies = [node.database for node in cut if node.database is not None]
        nemesis.disturb("two workers-db", proxies, Mode.BLACKHOLE, nemesis.lease_seconds + 2)


def cancel(nemesis: Nemesis) -> None:
    """Nothing goes wrong; jobs are cancelled at every moment of their lives."""
    nemesis.wait(8)


def hints(nemesis: Nemesis) -> None:
    """Redis forgets everything while jobs wait in it."""
    nemesis.wait(2)
    nemesis.restart_redis()
    for _ in range(2):
        nemesis.wait(2)
        nemesis.flush_redis()


def hang(nemesis: Nemesis) -> None:
    """An engine hangs: a heartbeat that went on would hold its rows for ever."""
    nemesis.wait(1)
    nemesis.wait_for_flow()
    nemesis.hang_worker()
    nemesis.wait(6)


_QUIET = Mix(many=1, cancel=0, cancel_batch=0)
_LONG = replace(_QUIET, single=4, batch=0.2, tokens=(20, 60), pause_seconds=0.15)

PROFILES: dict[str, Profile] = {
    "mixed": Profile("every promise at once", mixed, beside=network, seconds=40),
    "sqlite": Profile("every promise on one machine's SQLite", mixed, beside=network, seconds=15, database="sqlite"),
    "fence": Profile(
        "a write counts only by the owner of the attempt",
        fence,
        # No batches: a late write of one of their rows fails at a CHECK, fence or not.
        mix=Mix(many=1, batch=0, tokens=(20, 80), cancel=0.5),
        has_crashes=False,
    ),
    "accept": Profile("an answer of 2xx means committed", accept, mix=Mix(single=10, pause_seconds=0.03)),
    "reap": Profile("rows are taken from the dead alone", reap, mix=_LONG, step_seconds=0.08, has_crashes=False),
    "claim": Profile(
        "a row is claimed once",
        claim,
        mix=replace(_QUIET, batch=0, tokens=(2, 10)),  # most of the time all workers wait
        rows=24,
        lease_seconds=15,
        has_reruns=False,
        has_crashes=False,
    ),
    "blame": Profile("a lost lease is no crash", blame, mix=_LONG, has_crashes=False),
    "cancel": Profile(
        "an accepted cancel never completes",
        cancel,
        mix=Mix(cancel=5),
        lease_seconds=15,
        has_reruns=False,
        has_crashes=False,
    ),
    "hints": Profile(
        "losing Redis loses time alone",
        hints,
        mix=replace(_QUIET, pause_seconds=0.03),
        step_seconds=0.08,
        lease_seconds=15,
        has_reruns=False,
        has_crashes=False,
    ),
    "hang": Profile(
        "a worker that does not get on loses its rows", hang, mix=_LONG, settings={"BATCHMILL_HANG_SECONDS": "5"}
    ),
}
