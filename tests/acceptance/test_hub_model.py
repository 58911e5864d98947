"""A model given by its id on the Hugging Face hub, which a hub of our own on this machine serves."""

from pathlib import Path

from models.settings import DEMO_FOLDER
from tests.acceptance.conftest import Desk
from tests.unit.hub import QUIET, serve_hub

NEEDED = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.model", "tokenizer_config.json"}


def test_model_of_the_hub_is_fetched_named_and_found_again(desk: Desk) -> None:
    files = {path.name: path.read_bytes() for path in DEMO_FOLDER.iterdir() if path.is_file()}
    home = {"HF_HOME": str(desk.folder / "hub")}
    desk.write("in.jsonl", [{"prompt": "json.dumps:", "max_tokens": 3, "temperature": 0, "model": "tiny/llama"}])
    command = ("run", "in.jsonl", "--model", "tiny/llama", "-o")
    with serve_hub(files) as hub:
        done = desk.run(*command, "one.jsonl", **hub.environment, **home)
        assert done.returncode == 0, done.stderr
        assert done.stderr.startswith("batchmill: tiny/llama is no folder here; taking it from the Hugging Face hub")
        assert set(hub.served) == NEEDED
    assert " rows, float32 on cpu, 1 thread; linear: " in done.stderr
    (line,) = desk.read("one.jsonl")
    assert line["response"]["body"]["model"] == "llama"

    again = desk.run(*command, "two.jsonl", "--fresh", HF_HUB_OFFLINE="1", **home)
    assert again.returncode == 0, again.stderr
    (same,) = desk.read("two.jsonl")
    assert same["response"]["body"]["choices"] == line["response"]["body"]["choices"]


def test_offline_with_nothing_cached_is_said_before_anything_starts(desk: Desk, tmp_path: Path) -> None:
    desk.write("in.jsonl", [{"prompt": "a"}])
    environment = QUIET | {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = desk.run("run", "in.jsonl", "-o", "out.jsonl", "--model", "tiny/llama", **environment)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("batchmill: tiny/llama is no folder here, and the Hugging Face hub")
    assert len(done.stderr.splitlines()) == 2
    assert not (desk.folder / ".batchmill").exists()
    examined = desk.run("doctor", "--model", "tiny/llama", **environment)
    assert "its first use downloads it" in " ".join(examined.stdout.split())
