"""Makes an error of a tokenizer library the fault of the row whose text caused it."""

from collections.abc import Iterator
from contextlib import contextmanager

from worker.engine.types import RowError


def is_fault_of_text(error: BaseException) -> bool:
    """Whether an exception is one a library raises over a text: its panics, too, which derive from BaseException only.

    pyo3 gives each library a PanicException of its own and exports none, so its name must do.
    """
    if isinstance(error, Exception):
        return not isinstance(error, MemoryError)
    return type(error).__name__ == "PanicException"


@contextmanager
def blaming_the_text() -> Iterator[None]:
    """Raise RowError for what a tokenizer library raises, panics included."""
    try:
        yield
    except BaseException as error:
        if not is_fault_of_text(error):
            raise
        reason = str(error).partition("\n")[0]
        raise RowError("invalid_prompt", f"the tokenizer cannot encode this text: {reason}") from error
