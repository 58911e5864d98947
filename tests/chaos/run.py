"""One run: a cluster, clients, a nemesis, and the verdict."""

import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.chaos.checker import MIN_ACCEPTED, Checker
from tests.chaos.client import Client
from tests.chaos.cluster import Cluster
from tests.chaos.journal import Journal
from tests.chaos.load import Load
from tests.chaos.nemesis import Nemesis, Over
from tests.chaos.profiles import PROFILES, Profile, Script
from tests.chaos.timeline import Timeline
from tests.chaos.watcher import Watcher

LOOK_SECONDS = 0.1
SETTLE_SECONDS = 20.0  # without a job's end: then what is left never ends


@dataclass
class Verdict:
    """What came out of a run."""

    name: str
    seed: int
    profile: Profile
    journal: Journal
    timeline: Timeline
    settled_seconds: float | None  # from the last fault to the last job's end; None: some never ended
    logs: str = ""

    @property
    def violations(self) -> list[str]:
        """Each broken promise; none is what is wanted."""
        return list(self.journal.violations)

    def text(self) -> str:
        """For people."""
        states = ", ".join(f"{number} {state}" for state, number in sorted(self.journal.by_state().items()) if number)
        lines = [f"{self.name}, seed {self.seed}: {self.profile.rule}"]
        lines.append(f"  accepted  {self.journal.num_accepted()} jobs, {len(self.journal.batches)} batches: {states}")
        lines += [f"  {number:8}  {what}" for what, number in sorted(self.journal.counts.items())]
        if self.settled_seconds is not None:
            lines.append(f"  settled   {self.settled_seconds:.1f} s after the last fault")
        shown = self.violations[:20]
        lines += [f"  VIOLATED  {violation}" for violation in shown]
        if len(self.violations) > len(shown):
            lines.append(f"  ... and {len(self.violations) - len(shown)} more")
        return "\n".join([*lines, f"  verdict   {'RED' if self.violations else 'green'}"])


def run(name: str, seed: int, *, seconds: float | None = None, mutants: Sequence[str] = ()) -> Verdict:
    """Run a profile. Its length may be another than its own."""
    profile = PROFILES[name]
    if seconds is not None:
        profile = replace(profile, seconds=seconds)
    settings = {
        "BATCHMILL_LEASE_SECONDS": str(profile.lease_seconds),
        "BATCHMILL_GRACE_SECONDS": "2",
        "BATCHMILL_ROWS": str(profile.rows),
        **profile.settings,
    }
    with (
        tempfile.TemporaryDirectory(prefix="batchmill-chaos-", ignore_cleanup_errors=True) as folder,
        Cluster(
            Path(folder),
            database=profile.database,
            mutants=mutants,
            settings=settings,
            step_seconds=profile.step_seconds,
            num_workers=profile.num_workers,
        ) as cluster,
    ):
        verdict = _run(cluster, name, profile, seed)
        verdict.logs = "\n".join(path.read_text(errors="replace") for path in sorted(Path(folder).glob("*.log")))
    return verdict


def _run(cluster: Cluster, name: str, profile: Profile, seed: int) -> Verdict:
    journal, timeline = Journal(), Timeline()
    nemeses = [
        Nemesis(cluster, journal, timeline, f"{seed}-{number}", lease_seconds=profile.lease_seconds)
        for number in range(2)
    ]
    watcher = Watcher(cluster.url, journal, timeline, has_crashes=profile.has_crashes)
    load = Load(cluster.url, journal, profile.mix, seed)
    watcher.start()
    load.start()
    _disturb(cluster, nemeses, profile)
    load.stop()
    healed = timeline.now()
    _settle(cluster, watcher, journal)
    settled = timeline.now() - healed if watcher.has_seen_all else None
    watcher.stop()
    client = Client(cluster.url, journal, patience_seconds=20, stop=threading.Event())
    Checker(client, journal, has_reruns=profile.has_reruns).check()
    client.close()
    return Verdict(name, seed, profile, journal, timeline, settled)


def _disturb(cluster: Cluster, nemeses: Sequence[Nemesis], profile: Profile) -> None:
    """Run the scripts, for the profile's time at most, then end every fault. An error of a script's is raised here."""
    scripts = [profile.script, *([] if profile.beside is None else [profile.beside])]
    threads = [Doing(script, nemesis) for script, nemesis in zip(scripts, nemeses, strict=False)]
    for thread in threads:
        thread.start()
    journal, ends = nemeses[0].journal, time.monotonic() + profile.seconds
    while time.monotonic() < ends and (threads[0].is_alive() or journal.num_accepted() <= MIN_ACCEPTED):
        _supervise(cluster, journal)
    for thread in threads:
        thread.end()
    cluster.heal()
    for thread in threads:
        if thread.failure is not None:
            raise thread.failure


class Doing(threading.Thread):
    """A nemesis at its script."""

    def __init__(self, script: Script, nemesis: Nemesis) -> None:
        super().__init__(name="nemesis", daemon=True)
        self._script, self._nemesis = script, nemesis
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Until the script or the time is over."""
        try:
            self._script(self._nemesis)
        except Over:
            pass
        except BaseException as error:
            self.failure = error

    def end(self) -> None:
        """Stop at the next wait, and mend what is broken."""
        self._nemesis.end()
        self.join()


def _settle(cluster: Cluster, watcher: Watcher, journal: Journal) -> None:
    """Wait until every accepted job was seen to have ended, or none has for long; that they did not, the checker says.

    Never for so many seconds in all: how long the rest takes is the machine's matter.
    """
    left, ends = 0, 0.0
    while not watcher.has_seen_all:
        now_left = journal.num_unfinished()
        if now_left != left:
            left, ends = now_left, time.monotonic() + SETTLE_SECONDS
        elif time.monotonic() > ends:
            return
        _supervise(cluster, journal)


def _supervise(cluster: Cluster, journal: Journal) -> None:
    time.sleep(LOOK_SECONDS)
    for name in cluster.supervise():
        journal.violated(f"{name} ended by an error that it did not know")
