"""Replacing a function of the product in this process."""

from collections.abc import Callable
from typing import Any


def wrap(owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:  # noqa: ANN401
    """Replace the attribute `name` of a class or module by what `make` makes of it."""
    setattr(owner, name, make(getattr(owner, name)))
