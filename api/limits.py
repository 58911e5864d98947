"""Every limit that a request may meet, taken from where it is enforced."""

from typing import Any

from api.body import MAX_BODY_BYTES
from api.files.form import MAX_EXPIRY_SECONDS, MIN_EXPIRY_SECONDS
from api.paging import MAX_LIMIT
from api.rendering.files import MAX_FILENAME_CHARS
from api.routes.files import MAX_LISTED
from api.waiting import MAX_WAIT_SECONDS
from models import batch_requests, generation, job_requests, prompts, usage
from models.batch_lines import MAX_CUSTOM_ID_CHARS
from models.requests import DEFAULT_PRIORITY, ENDPOINTS
from models.settings import Settings


def limits_body(settings: Settings) -> dict[str, Any]:
    """The limits by what they are about; names end in their unit. What a model can hold, GET /v1/models tells."""
    return {
        "object": "limits",
        "request": _request(settings),
        "generation": _generation(),
        "file": _file(settings),
        "batch": _batch(settings),
        "job": {
            "ids_per_poll": job_requests.MAX_JOBS,
            "wait_seconds": MAX_WAIT_SECONDS,
            "ttl_seconds": generation.MAX_LIFE_SECONDS,
            "priorities": [0, 9],
            "default_priority": DEFAULT_PRIORITY,
        },
        "list": {"entries": MAX_LIMIT, "files": MAX_LISTED},
        "usage": {"completed_jobs_outside_batches": usage.MAX_SINGLE_JOBS},
    }


def _request(settings: Settings) -> dict[str, Any]:
    return {
        "body_bytes": MAX_BODY_BYTES,
        "sync_timeout_seconds": settings.sync_timeout_seconds,
        "idempotency_key_chars": generation.MAX_KEY_CHARS,
        "metadata_pairs": batch_requests.MAX_PAIRS,
        "metadata_key_chars": batch_requests.MAX_KEY_CHARS,
        "metadata_value_chars": batch_requests.MAX_VALUE_CHARS,
    }


def _generation() -> dict[str, Any]:
    return {
        "prompts": prompts.MAX_PROMPTS,
        "messages": prompts.MAX_MESSAGES,
        "n": generation.MAX_ANSWERS,
        "best_of": generation.MAX_ANSWERS,
        "logprobs": generation.MAX_LOGPROBS,
        "stop_strings": generation.MAX_STOPS,
        "stop_chars": generation.MAX_STOP_CHARS,
        "logit_biases": generation.MAX_BIASES,
        "seed": generation.MAX_SEED,
    }


def _file(settings: Settings) -> dict[str, Any]:
    return {
        "bytes": settings.max_file_bytes,
        "filename_chars": MAX_FILENAME_CHARS,
        "expires_after_seconds": [MIN_EXPIRY_SECONDS, MAX_EXPIRY_SECONDS],
    }


def _batch(settings: Settings) -> dict[str, Any]:
    return {
        "endpoints": list(ENDPOINTS),
        "requests": settings.max_batch_requests,
        "inline_requests": batch_requests.MAX_INLINE_REQUESTS,
        "line_bytes": settings.max_line_bytes,
        "custom_id_chars": MAX_CUSTOM_ID_CHARS,
        "completion_window_seconds": batch_requests.MAX_WINDOW_SECONDS,
        "max_attempts": batch_requests.MAX_ATTEMPTS,
    }
