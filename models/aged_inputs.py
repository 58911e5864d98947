"""Taking the prompts out of jobs whose results are kept longer: what the results are rendered with stays."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, bindparam, select, update

from models.columns import is_one_of
from models.erasing import overwriting
from models.packing import dump_json, load_json
from models.tables import payloads

TEXTS = ("prompt", "messages", "input", "instructions", "suffix")


def erase(connection: Connection, ids: Sequence[UUID]) -> int:
    """Take the prompts out of the bodies of these jobs, which are final. Returns how many still had them."""
    query = select(payloads.c.job_id, payloads.c.body).where(is_one_of(connection, payloads.c.job_id, ids))
    rows = connection.execute(query.where(payloads.c.input_expired.is_(None)).with_for_update()).all()
    if rows:
        change = update(payloads).where(payloads.c.job_id == bindparam("id"))
        values = [{"id": row.job_id, "text": dump_json(without_input(load_json(row.body)))} for row in rows]
        with overwriting(connection):
            connection.execute(change.values(body=bindparam("text"), input_expired=True), values)
    return len(rows)


def without_input(body: Any) -> dict[str, Any]:  # noqa: ANN401 - a refused line may be anything
    """A stored request without what it asked. Of a list of prompts its being one stays, as tokens are counted by it;
    of a chat that echoes the last message stays, as it is part of the answer."""
    if not isinstance(body, dict):
        return {}
    kept = {name: value for name, value in body.items() if name not in TEXTS}
    if isinstance(body.get("prompt"), list) and not isinstance((body["prompt"] or [0])[0], int):
        kept["prompt"] = [""]
    if body.get("echo") and body.get("messages"):
        kept["messages"] = body["messages"][-1:]
    return kept
