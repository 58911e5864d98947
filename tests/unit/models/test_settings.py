"""Settings: where values come from, what is refused, what is masked."""

from pathlib import Path

import pytest

from models.errors import ConfigurationError
from models.settings import DEFAULT_REDIS_URL, DEMO_FOLDER, load_settings


def test_state_directory_names_the_database(tmp_path: Path) -> None:
    settings = load_settings(state_dir=tmp_path)
    assert settings.database == f"sqlite:///{tmp_path}/batchmill.db"


def test_urls_come_from_the_usual_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:///x.db")
    monkeypatch.setenv("REDIS_URL", "redis://:secret@h:1/0")
    settings = load_settings()
    assert (settings.database, settings.broker) == ("sqlite:///x.db", "redis://:secret@h:1/0")
    assert "secret" not in settings.model_dump_json()


def test_redis_of_a_running_service_is_found(tmp_path: Path) -> None:
    assert load_settings(state_dir=tmp_path).broker == DEFAULT_REDIS_URL
    (tmp_path / "redis.url").write_text("redis://127.0.0.1:1234/0\n")
    assert load_settings(state_dir=tmp_path).broker == "redis://127.0.0.1:1234/0"


def test_bad_setting_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHMILL_LEASE_SECONDS", "soonish")
    with pytest.raises(ConfigurationError, match="lease_seconds") as caught:
        load_settings()
    assert "soonish" not in str(caught.value)


@pytest.mark.parametrize(("fraction", "is_good"), [("0.01", True), ("1", True), ("0", False), ("1.01", False)])
def test_fraction_of_a_gpu_is_above_zero_and_at_most_one(
    monkeypatch: pytest.MonkeyPatch, fraction: str, is_good: bool
) -> None:
    monkeypatch.setenv("BATCHMILL_GPU_MEMORY_FRACTION", fraction)
    if is_good:
        assert load_settings().gpu_memory_fraction == float(fraction)
    else:
        with pytest.raises(ConfigurationError, match="gpu_memory_fraction"):
            load_settings()


def test_dtype_of_the_cache_is_one_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHMILL_KV_DTYPE", "int4")
    with pytest.raises(ConfigurationError, match="setting kv_dtype: Input should be 'auto' or 'fp8'"):
        load_settings()


def test_model_is_named_by_the_last_part_of_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "my model"
    folder.mkdir()
    assert load_settings(model=str(folder)).model_name == "my-model"
    assert load_settings(model="org/Tiny-1B").model_name == "Tiny-1B"


def test_model_path_is_the_demo_models_or_as_given() -> None:
    assert load_settings().model_path == DEMO_FOLDER
    assert load_settings(model="org/Tiny-1B").model_path == Path("org/Tiny-1B")
