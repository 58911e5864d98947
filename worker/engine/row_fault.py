"""Makes an error of a tokenizer library the fault of the row whose text caused it."""

from collections.abc import Iterator
from contextlib import contextmanager

from worker.engine.types import RowError


@contextmanager
def blaming_the_text() -> Iterator[None]:
    """Raise RowError for what a tokenizer library raises, and for its panics, which derive from BaseException only."""
    try:
        yield
    except (MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise  # no fault of the text
    except BaseException as error:
        # pyo3 gives each library a PanicException of its own and exports none, so its name must do.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = str(error).partition("\n")[0]
        raise RowError("invalid_prompt", f"the tokenizer cannot encode this text: {reason}") from error
