"""What operators read: health, models, workers, keys, load, limits."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from api.openapi.schemas.base import UnixSeconds


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """Whether jobs are accepted, and what is amiss."""

    status: Literal["ready", "unavailable"]
    database: str
    migrations: str
    redis: Literal["ok", "degraded"]
    workers: int | None
    warnings: list[str]


class Version(BaseModel):
    """Of this service."""

    version: str


class Model(BaseModel):
    """What live workers serve under this name."""

    id: str
    object: Literal["model"]
    created: UnixSeconds
    owned_by: str
    root: Annotated[str, Field(description="The model itself, where the id is an alias.")]
    state: Annotated[
        Literal["loaded", "draining", "unhealthy"],
        Field(description="Draining: all its workers end. Unhealthy: their devices crash."),
    ]
    max_model_len: Annotated[int, Field(description="Tokens of a prompt and its answer.")]
    dtype: str
    device: str
    rows: Annotated[int, Field(description="Jobs decoded together, by all its workers.")]
    workers: int


class Models(BaseModel):
    """All of them."""

    object: Literal["list"]
    data: list[Model]


class Worker(BaseModel):
    """A live worker."""

    id: str
    object: Literal["worker"]
    host: str
    pid: int
    slot: str
    model: str
    state: Literal["ready", "draining", "unhealthy"]
    rows: int
    max_model_len: int
    dtype: str
    device: str
    started_at: UnixSeconds | None
    heartbeat_at: UnixSeconds | None


class ApiKey(BaseModel):
    """An API key, without what is secret of it."""

    id: str
    object: Literal["api_key"]
    tenant: str
    is_admin: bool
    status: Literal["active", "revoked", "expired"]
    created_at: UnixSeconds
    last_used_at: UnixSeconds | None
    expires_at: UnixSeconds | None
    revoked_at: UnixSeconds | None


class NewApiKey(ApiKey):
    """A key that was just made: shown this once."""

    key: str


class Depth(BaseModel):
    """What waits."""

    depth: Annotated[int, Field(description="Queued jobs.")]
    by_priority: dict[str, int]
    oldest_seconds: float | None
    workers: int


class ModelDepth(Depth):
    """What waits for a model."""

    model: str
    rows: int


class Queue(Depth):
    """What waits, in all and by model."""

    object: Literal["queue"]
    models: list[ModelDepth]


class UsageTotals(BaseModel):
    """What the jobs of a time came to."""

    object: Literal["usage"]
    start_time: UnixSeconds
    end_time: UnixSeconds
    jobs: Annotated[dict[str, int], Field(description="By final status, `unfinished`, and `total`.")]
    batches: int
    input_tokens: int
    output_tokens: int
    total_tokens: int


class Limits(BaseModel):
    """Every limit that a request may meet; names end in their unit."""

    object: Literal["limits"]
    request: dict[str, float]
    generation: dict[str, float]
    file: dict[str, float | list[float]]
    batch: dict[str, float | list[str]]
    job: dict[str, float | list[float]]
    list: dict[str, float]
    usage: dict[str, float]
