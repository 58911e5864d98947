"""Query parameters that several resources share, each once, with its words in the API document."""

from typing import Annotated, Literal
from uuid import UUID

from fastapi import Query

from models.errors import NotFound, RequestError
from models.ids import parse_job_id

After = Annotated[str | None, Query(description="The id of the last entry of the page before.")]
Limit = Annotated[str | None, Query(description="Entries a page: 1 to 100, default 20.")]
Order = Annotated[Literal["asc", "desc"], Query(description="By time of creation: oldest or newest first.")]
Wait = Annotated[
    float | None,
    Query(ge=0, allow_inf_nan=False, description="Seconds to wait for the job; 60 at most. Also as Prefer: wait=n."),
]
Until = Annotated[
    Literal["terminal", "change"], Query(description="What to wait for: the end, or any change of status.")
]


def cursor_of(after: str | None) -> UUID | None:
    """The job that a list of jobs goes on after. Raises RequestError: no id of a job is a bad cursor, not a 404."""
    try:
        return None if after is None else parse_job_id(after)
    except NotFound:
        raise RequestError(
            "invalid_cursor", "after must be the id of a job of this list that was not deleted", param="after"
        ) from None
