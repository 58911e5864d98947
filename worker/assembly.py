"""From the answers to a job's prompts to its one outcome. Of a list of prompts each is a request to the engine."""

from dataclasses import dataclass, field

from models.records import Outcome
from worker.deliveries import Row
from worker.engine.types import Output
from worker.rows import failed, num_prompts, outcome_of, prompt_index


@dataclass(slots=True)
class Assembly:
    """A job of which something was handed to the engine: what still runs there, and the answers that are in."""

    row: Row
    running: set[str] = field(default_factory=set)  # ids of requests
    _answers: dict[int, Output] = field(default_factory=dict)  # by prompt

    @property
    def is_single(self) -> bool:
        """Whether the job is one request, so that nothing of it can be anywhere else."""
        return num_prompts(self.row.job) == 1

    def take(self, output: Output, *, fingerprint: str) -> Outcome | None:
        """Take what one request came to; give the job's outcome once that is known. The first failure decides it."""
        job = self.row.job
        self.running.discard(output.request_id)
        if output.error is not None:
            return failed(job, output.error.code, output.error.message, request_id=output.request_id)
        self._answers[prompt_index(output.request_id) or 0] = output
        if len(self._answers) < num_prompts(job):
            return None
        return outcome_of(job, [self._answers[index] for index in range(len(self._answers))], fingerprint=fingerprint)
