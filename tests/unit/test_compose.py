"""docker-compose.yml and deploy/Dockerfile, checked without a Docker engine: form first, then meaning."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from models.settings import Settings
from tests.unit.compose_schema import COMPOSE
from worker.engine.native.build import default_folder

ROOT = Path(__file__).parents[2]
VARIABLE = re.compile(r"\$\{(\w+)(:-|:\?)?[^}]*\}")
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
FILE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
COMMANDS = {name: service["command"] for name, service in SERVICES.items() if "build" in service}


def stages() -> dict[str, str]:
    """The Dockerfile's text from each `FROM ... AS name` to the next."""
    parts = re.split(
        r"^FROM (\S+) AS (\S+)$", (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    return dict(zip(parts[2::3], parts[3::3], strict=True))


def names_of(entries: list[str]) -> set[str]:
    """The named volumes of a service: a bind mount starts with a path or a variable."""
    return {entry.split(":")[0] for entry in entries if not entry.startswith((".", "/", "$"))}


def test_compose_has_only_known_keys() -> None:
    jsonschema.Draft202012Validator(COMPOSE).validate(FILE)


@pytest.mark.parametrize(
    "change",
    [
        {"privileged": True},
        {"image": ""},
        {"ports": ["80"]},
        {"healthcheck": {"test": ["NONE", "x"]}},
        {"restart": "no!"},
    ],
)
def test_schema_refuses_what_is_not_in_it(change: dict[str, object]) -> None:
    broken = FILE | {"services": {"api": SERVICES["api"] | change}}

    assert not jsonschema.Draft202012Validator(COMPOSE).is_valid(broken)


@pytest.mark.parametrize("name", SERVICES)
def test_service_refers_to_what_exists(name: str) -> None:
    service = SERVICES[name]

    assert service.get("depends_on", {}).keys() <= SERVICES.keys()
    assert set(service["networks"]) <= FILE["networks"].keys()
    assert names_of(service.get("volumes", [])) <= FILE["volumes"].keys()
    for other, how in service.get("depends_on", {}).items():
        assert how["condition"] != "service_healthy" or "healthcheck" in SERVICES[other]


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_hardened(name: str) -> None:
    service = SERVICES[name]

    assert service["init"]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "build" in service or service["user"].split(":")[0] != "0"  # ours name their user in the Dockerfile
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_image_has_a_version(name: str) -> None:
    assert re.search(r":\d+\.\d+[\w.-]*$", SERVICES[name]["image"])


@pytest.mark.parametrize("name", COMMANDS)
def test_command_exists(name: str) -> None:
    """Ask the real command line for the help of each service's command, and look for the options it is given."""
    words = COMMANDS[name]
    batchmill = Path(sys.executable).with_name(words[0])
    command = [word for word in words[1:] if word.isalpha()]
    done = subprocess.run([batchmill, *command, "--help"], capture_output=True, text=True, timeout=30)

    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in words if word.startswith("--"))


@pytest.mark.parametrize("name", ["api", "worker"])
def test_health_check_is_python(name: str) -> None:
    program, option, code = SERVICES[name]["healthcheck"]["test"][1:]

    assert (program, option) == ("python", "-c")
    ast.parse(code)


def test_redis_keeps_its_queue() -> None:
    command = " ".join(SERVICES["redis"]["command"])

    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert "--requirepass ${REDIS_PASSWORD:?" in command


def test_migrations_run_once_and_before_the_rest() -> None:
    assert SERVICES["migrate"]["restart"] == "no"
    for name in ("api", "worker", "worker-gpu"):
        assert SERVICES[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


def test_gpu_profile_reserves_devices() -> None:
    gpu = SERVICES["worker-gpu"]
    [device] = gpu["deploy"]["resources"]["reservations"]["devices"]

    assert gpu["profiles"] == ["gpu"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert all("profiles" not in service for name, service in SERVICES.items() if name != "worker-gpu")


def test_passwords_have_no_default() -> None:
    """Compose stops with a sentence while a password is missing or empty, as it is in .env.example."""
    example = dict(line.split("=", 1) for line in (ROOT / ".env.example").read_text().splitlines() if "=" in line[:30])

    for name, operator in VARIABLE.findall(TEXT):
        secret = name.endswith("PASSWORD")
        assert operator == (":?" if secret else ":-"), name
        assert not secret or example[name] == ""


def test_worker_has_time_to_give_its_rows_back() -> None:
    grace_seconds = int(SERVICES["worker"]["stop_grace_period"].removesuffix("s"))

    assert grace_seconds > Settings.model_fields["grace_seconds"].default


def test_dockerfile_has_two_targets_and_api_has_no_tensors() -> None:
    found = stages()

    assert {"api", "worker"} <= found.keys()
    assert ".[api]" in found["api"]
    assert "[worker]" not in found["api"]
    assert "[dev]" not in "".join(found.values())
    assert ".[worker]" in found["worker"]
    for target in ("api", "worker"):
        assert "constraints.txt" in found[target]
        assert "USER batchmill" in found[target]


def test_worker_can_compile_its_attention_and_keep_it() -> None:
    """The image is mounted read-only: the folder must be a volume, which takes owner and mode from the image."""
    folder = f"/home/batchmill/{default_folder().relative_to(Path.home())}"

    assert re.search(r"apt-get install .*g\+\+", stages()["worker"])
    assert re.search(rf"install -d -o batchmill -g batchmill -m 700 {folder}$", stages()["worker"], flags=re.MULTILINE)
    assert "g++" not in stages()["api"]
    for name in ("worker", "worker-gpu"):
        assert any(entry.split(":")[1] == folder for entry in SERVICES[name]["volumes"] if "$" not in entry)


@pytest.mark.parametrize("name", COMMANDS)
def test_build_target_exists(name: str) -> None:
    build = SERVICES[name]["build"]

    assert (ROOT / build["context"] / build["dockerfile"]).is_file()
    assert build["target"] in stages()


def test_dockerfile_copies_what_the_builder_is_sent() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (.+) \S+$", (ROOT / "deploy/Dockerfile").read_text(), flags=re.MULTILINE)

    assert {word.split("/")[0] for line in copied for word in line.split()} == sent
