"""Every setting, in one typed class. Built where a process starts and passed on; nothing reads it at import."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.errors import ConfigurationError

DEMO = "demo"
NOOP = "noop"  # an engine that answers at once, for dry runs and for measuring the queue alone
DEMO_FOLDER = Path(__file__).resolve().parents[1] / "examples" / "demo-model"
DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"
REDIS_URL_FILE = "redis.url"


class Settings(BaseSettings):
    """Values come from arguments, the environment (BATCHMILL_NAME; a few standard names too), then these defaults."""

    model_config = SettingsConfigDict(
        env_prefix="BATCHMILL_", extra="ignore", populate_by_name=True, hide_input_in_errors=True
    )

    database_url: SecretStr | None = Field(
        None, validation_alias=AliasChoices("DATABASE_URL", "BATCHMILL_DATABASE_URL")
    )
    redis_url: SecretStr | None = Field(None, validation_alias=AliasChoices("REDIS_URL", "BATCHMILL_REDIS_URL"))
    state_dir: Path = Path(".batchmill")
    model: str = DEMO
    device: str = "auto"
    device_name: str | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    kv_dtype: Literal["auto", "fp8"] = "auto"
    rows: Literal["auto"] | Annotated[int, Field(ge=1, le=4096)] = "auto"
    refill_wait_seconds: Annotated[float, Field(ge=0, le=60)] = 0.25
    gpu_memory_fraction: Annotated[float, Field(gt=0, le=1)] = 0.9
    tensor_parallel: Annotated[int, Field(ge=1, le=64)] = 1
    reproducible: bool = False
    max_model_len: Annotated[int, Field(ge=1)] | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    lease_seconds: Annotated[float, Field(ge=1)] = 15.0
    grace_seconds: Annotated[float, Field(ge=0)] = 25.0
    hang_seconds: Annotated[float, Field(ge=5)] = 120.0
    max_attempts: Annotated[int, Field(ge=1)] = 25
    max_crashes: Annotated[int, Field(ge=1)] = 5
    ageing_seconds: Annotated[float, Field(ge=1)] = 300.0
    max_result_bytes: Annotated[int, Field(ge=1024)] = 64 << 20
    min_free_disk: Annotated[float, Field(ge=0, lt=1)] = 0.05
    auth: Literal["auto", "open", "keys"] = "auto"
    sync_timeout_seconds: Annotated[float, Field(ge=0)] = 300.0
    max_line_bytes: Annotated[int, Field(ge=1024)] = 1 << 20
    blob_url: str | None = None
    max_file_bytes: Annotated[int, Field(ge=1024)] = 200_000_000
    max_batch_requests: Annotated[int, Field(ge=1)] = 50_000
    keep_inputs_days: Annotated[float, Field(gt=0)] | None = None
    keep_results_days: Annotated[float, Field(gt=0)] | None = None
    keep_traces_days: Annotated[float, Field(ge=0)] = 30.0
    model_aliases: dict[str, str] = {}
    strict: bool = True
    log_format: Literal["console", "json"] = "console"

    @property
    def database(self) -> str:
        """DATABASE_URL, or the SQLite file of the state directory."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.state_dir.resolve() / 'batchmill.db'}"

    @property
    def broker(self) -> str:
        """REDIS_URL, or the Redis that `batchmill serve` runs from this state directory, or Redis's usual port."""
        if self.redis_url is not None:
            return self.redis_url.get_secret_value()
        noted = self.state_dir / REDIS_URL_FILE
        return noted.read_text().strip() if noted.is_file() else DEFAULT_REDIS_URL

    @property
    def blobs(self) -> str:
        """BLOB_URL, any fsspec understands (s3://bucket/folder), or a folder of the state directory."""
        return self.blob_url if self.blob_url is not None else str(self.state_dir.resolve() / "files")

    @property
    def model_name(self) -> str:
        """What jobs and the queue call the model: the last part of its path or id."""
        name = Path(self.model).resolve().name if Path(self.model).exists() else self.model.rsplit("/", 1)[-1]
        return re.sub(r"[^\w.@+-]", "-", name)

    @property
    def model_path(self) -> Path:
        """What the engine is to load: a folder, a weight file in one, or an id on the Hugging Face hub."""
        return DEMO_FOLDER if self.model == DEMO else Path(self.model)


def load_settings(**overrides: Any) -> Settings:  # noqa: ANN401 (any setting, by name)
    """Settings from the environment, with what the command line gave on top; None counts as not given.

    Raises ConfigurationError that names the setting, never its value.
    """
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False, include_context=False)
        name = errors[0]["loc"][0]
        reasons = " or ".join(entry["msg"] for entry in errors if entry["loc"][0] == name)
        raise ConfigurationError(f"setting {name}: {reasons}") from None
