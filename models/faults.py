"""Which codes of failed jobs are our fault: the request was sound, and may yet succeed. All others are the request's.

Such a job is a dead letter. A new code takes a migration too, as the dead letters' indexes hold the list.
"""

from typing import Literal, get_args

OurFault = Literal[
    "attempts_exhausted",  # too many workers were lost while they ran it
    "internal_error",  # the outcome did not say why
    "internal_row_error",  # the tokenizer or the engine raised for this row alone
    "nonfinite_logits",  # the model computed no numbers, in float32 neither
    "out_of_memory",  # alone it did not fit; it may on a larger device
    "worker_crashed",  # twice while it ran alone
]
OUR_FAULTS: frozenset[str] = frozenset(get_args(OurFault))

# Of jobs. The dead letters' indexes and queries say it in these words: else a planner may not see that they agree.
IS_DEAD_LETTER = f"status = 'failed' AND error_code IN ({', '.join(repr(code) for code in sorted(OUR_FAULTS))})"
