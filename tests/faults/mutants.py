"""Rules of the product broken on purpose, by name: each a function that patches this process.

A rule whose mutant leaves every suite green is not tested.
"""

from collections.abc import Callable

MUTANTS: dict[str, Callable[[], None]] = {}
