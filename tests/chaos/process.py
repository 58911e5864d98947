"""A process of the cluster: tests.faults.launch, with an engine that takes its time."""

import sys

from tests.chaos import slow_engine
from tests.faults import launch

if __name__ == "__main__":
    slow_engine.install()
    launch.main(sys.argv[1:])
