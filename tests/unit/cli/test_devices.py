"""Which devices --devices names, what it refuses, and what each worker is started with."""

import shutil
import subprocess
import sys
from collections.abc import Sequence

import pytest
import typer
from typer.testing import CliRunner

from cli import devices
from cli.devices import Device, choose_devices, visible_gpus
from cli.main import app
from models.settings import Settings

USAGE = 2


def names(text: str, *gpus: str) -> list[str]:
    return [device.name for device in choose_devices(text, find_gpus=lambda: gpus)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("all", ["cuda:0", "cuda:1", "cuda:2"]),
        ("2,0", ["cuda:2", "cuda:0"]),
        (" cuda:1 , cuda ", ["cuda:1", "cuda:0"]),
        ("cpu,1,cpu", ["cpu:0", "cuda:1", "cpu:1"]),
    ],
)
def test_devices_are_all_gpus_or_those_listed(text: str, found: list[str]) -> None:
    assert names(text, "0", "1", "2") == found


def test_numbers_count_the_gpus_that_are_visible() -> None:
    """And names tell which ones these are."""
    assert names("1,0", "5", "GPU-8f2e") == ["cuda:GPU-8f2e", "cuda:5"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0,0", "a GPU is named twice"),
        ("cuda,0", "a GPU is named twice"),
        ("7", "there is no GPU 7: torch sees 2, counted from 0"),
        ("0,gpu", "'gpu' is no device; give all, or a list"),
        ("", "'' is no device"),
        ("0,", "'' is no device"),
        ("-1", "'-1' is no device"),
        ("auto", "'auto' is no device"),
    ],
)
def test_what_is_no_list_of_devices_is_refused(text: str, says: str) -> None:
    with pytest.raises(typer.BadParameter) as caught:
        names(text, "0", "1")
    assert says in caught.value.message


def test_processors_are_listed_without_asking_for_gpus() -> None:
    def ask() -> Sequence[str]:
        raise AssertionError("torch is not needed")

    assert [device.name for device in choose_devices("cpu,cpu", find_gpus=ask)] == ["cpu:0", "cpu:1"]


@pytest.mark.parametrize(
    ("visible", "number", "found"),
    [
        (None, 3, ["0", "1", "2"]),
        ("2, 3", 2, ["2", "3"]),
        ("2,GPU-8f2e", 2, ["2", "GPU-8f2e"]),
        ("1,-1,2", 1, ["1"]),
        ("", 0, []),
    ],
)
def test_visible_gpus_are_named_as_cuda_names_them(visible: str | None, number: int, found: list[str]) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert visible_gpus(environment, count=lambda: number) == found


@pytest.mark.parametrize(
    ("outer", "order"),
    [({}, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}), ({"CUDA_VISIBLE_DEVICES": "3"}, {}), ({"CUDA_DEVICE_ORDER": "X"}, {})],
)
def test_process_of_a_gpu_sees_no_other(
    monkeypatch: pytest.MonkeyPatch, outer: dict[str, str], order: dict[str, str]
) -> None:
    """Numbers that we gave ourselves are nvidia-smi's; those that were given are left to mean what they meant."""
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in outer.items():
        monkeypatch.setenv(name, value)
    own = {"CUDA_VISIBLE_DEVICES": "3", "BATCHMILL_DEVICE": "cuda", "BATCHMILL_DEVICE_NAME": "cuda:3"}
    assert Device("cuda", "cuda:3", "3").environment() == own | order


def test_process_of_a_processor_sees_no_gpu() -> None:
    [device] = choose_devices("cpu")
    environment = device.environment()
    assert (environment["CUDA_VISIBLE_DEVICES"], environment["BATCHMILL_DEVICE"]) == ("", "cpu")


def test_state_directories_are_named_after_devices() -> None:
    folders = [device.folder for device in choose_devices("all", find_gpus=lambda: ["3", "MIG-1/2/0"])]
    assert folders == ["cuda-3", "cuda-MIG-1-2-0"]


def test_all_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process asks torch, and finds none where none is visible."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(typer.BadParameter, match="there is no GPU"):
        choose_devices("all")


@pytest.mark.gpu
@pytest.mark.skipif(not shutil.which("nvidia-smi"), reason="no NVIDIA driver")
def test_all_are_the_gpus_that_the_driver_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without MIG, each a line such as `GPU 0: NVIDIA H200 (UUID: GPU-...)`."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [device.name for device in choose_devices("all")] == [f"cuda:{number}" for number in range(len(listed))]


def test_torch_that_cannot_be_asked_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_COUNT", "import torch_that_is_missing")
    with pytest.raises(typer.BadParameter, match="No module named 'torch_that_is_missing'"):
        choose_devices("all")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--devices", "0,0"], "Invalid value for --devices: a GPU is named twice"),
        (["--devices", "cpu", "--device", "cpu"], "Invalid value for --devices: give this or --device, not both"),
        (
            ["--devices", "cpu", "--tensor-parallel", "2"],
            "a worker a device, and a model split among several: not both",
        ),
        (["--tensor-parallel", "0"], "Invalid value for '--tensor-parallel'"),
        (["--gpu-memory-fraction", "0"], "must be above 0 and at most 1"),
        (["--gpu-memory-fraction", "nan"], "must be above 0 and at most 1"),
        (["--rows", "0"], "must be auto or a number above 0"),
        (["--rows", "many"], "must be auto or a number above 0"),
    ],
)
def test_wrong_option_of_the_worker_is_a_usage_error(arguments: list[str], says: str) -> None:
    ended = CliRunner().invoke(app, ["worker", "--model", "noop", *arguments])
    assert ended.exit_code == USAGE
    assert says in ended.output
    assert arguments[0] in ended.output


def test_rows_are_auto_or_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("cli.worker.run_worker", lambda settings, **_: asked.append(settings.rows))
    for rows in ("auto", "12"):
        CliRunner().invoke(app, ["worker", "--rows", rows])
    assert asked == ["auto", 12]


@pytest.mark.parametrize("command", [["worker"], ["serve"], ["run", "in.jsonl", "-o", "out.jsonl"]])
def test_dtype_of_the_cache_and_the_reproducible_mode_are_options(
    monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    """What is not given is left to the environment."""
    asked: list[Settings] = []
    monkeypatch.setattr("cli.worker.run_worker", lambda settings, **_: asked.append(settings))
    monkeypatch.setattr("cli.serve.serve_all", lambda settings, **_: asked.append(settings))
    monkeypatch.setattr("cli.run.run_file", lambda options, settings: asked.append(settings))
    CliRunner().invoke(app, [*command, "--kv-dtype", "fp8", "--reproducible"])
    monkeypatch.setenv("BATCHMILL_REPRODUCIBLE", "true")
    CliRunner().invoke(app, command)
    assert [(settings.kv_dtype, settings.reproducible) for settings in asked] == [("fp8", True), ("auto", True)]


def test_supervisor_loads_no_torch() -> None:
    """Not to check the model, either. It has no device to look after here, and so ends at once."""
    code = "import sys; from cli.supervisor import supervise; from models.settings import load_settings;"
    code += "print(supervise(load_settings(), [], loglevel='info'), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0 False\n"
