"""What can go wrong inside a step, and whose fault it is: the memory's, a row's, or nobody's here."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from worker.engine.row_fault import is_fault_of_text
from worker.engine.types import RowError

log = logging.getLogger(__name__)

# What a failed allocation says where its exception has no type of its own: torch's CPU allocator on Linux and on
# Windows, C++'s own as torch passes it on, cuBLAS's workspace.
_ALLOCATION_WORDS = ("can't allocate memory", "not enough memory", "bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED")


class RowsIntact(Exception):
    """Memory ran out before any row that was live had changed."""


def is_allocation_failure(error: BaseException) -> bool:
    """Whether an exception means that there was not enough memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _ALLOCATION_WORDS)


@contextmanager
def leaving_rows_alone() -> Iterator[None]:
    """Around what only computes, or writes to rows just admitted. Raises RowsIntact where memory runs out."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_allocation_failure(error):
            raise RowsIntact from error
        raise


@contextmanager
def blaming_the_row() -> Iterator[None]:
    """Around what a tokenizer does with one answer. Raises RowError; its message shows nothing of the answer."""
    try:
        yield
    except RowError:
        raise
    except BaseException as error:
        if not is_fault_of_text(error) or is_allocation_failure(error):
            raise
        name = type(error).__name__
        log.warning("an answer could not be turned into text: %s", name, extra={"action": "row_failed"})
        raise RowError("internal_row_error", f"the tokenizer cannot turn the answer into text ({name})") from error


def out_of_memory(num_tokens: int) -> RowError:
    """The error of a request that does not fit into memory even alone."""
    message = f"{num_tokens} tokens do not fit into the engine's memory, even alone: shorten the prompt or max_tokens"
    return RowError("out_of_memory", message)
