"""A job as a person reads it, from the job object alone: where it stands, what it went through, what became of it."""

import time
from collections.abc import Mapping
from typing import Any

NEXT = "it now runs in smaller company, and fails at the second crash alone"


def standing(job: Mapping[str, Any]) -> str:
    """Its status, and why where the status does not say."""
    return str(job["status"]) if job["status_reason"] is None else f"{job['status']} ({job['status_reason']})"


def describe(job: Mapping[str, Any]) -> str:
    """A job as lines of names and values; what is not there is left out."""
    error = job["error"]
    shown = {
        "id": job["id"],
        "status": standing(job),
        "error": error and error["message"],
        "attempts": attempts(job),
        "crashes": crashes(job),
        "endpoint": job["endpoint"],
        "model": job["model"],
        "priority": job["priority"],
        "owner": job.get("tenant"),
        "batch": job["batch_id"],
        "custom_id": job["custom_id"],
        "created": moment(job["created_at"]),
        "started": moment(job["started_at"]),
        "finished": moment(job["finished_at"]),
        "expires": moment(job["expires_at"]),
        "worker": job["worker_id"],
        "queue position": job.get("queue_position"),
        "repeats": job.get("retry_of"),
        "replayed as": job["replayed_as"],
    }
    return "\n".join(f"{name:<16}{value}" for name, value in shown.items() if value not in (None, ""))


def attempts(job: Mapping[str, Any]) -> str:
    """How often a worker began with it."""
    most = job["max_attempts"]
    return f"{job['attempts']}" if most is None else f"{job['attempts']} of at most {most}"


def crashes(job: Mapping[str, Any]) -> str | None:
    """How many workers crashed while they ran it, and what that means for what comes next. A replay inherits them."""
    number = job["suspicion"]
    if not number:
        return None
    text = f"{number} of workers that ran it"
    text += f", {job['solo_crashes']} of them alone" if job["solo_crashes"] else ""
    text += ", what it repeats included" if job.get("retry_of") else ""
    if job["finished_at"] is not None:
        return text
    return f"{text}; {NEXT}"


def moment(seconds: int | None) -> str | None:
    """A time of this machine's."""
    return None if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
