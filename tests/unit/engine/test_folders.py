"""Where a model is found: folders, files in them, and ids that a hub of our own on this machine serves."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from worker.engine.folders import find_folder
from worker.engine.types import EngineError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "tokenizer.json": b"[]",
    "pytorch_model.bin": b"the same weights again",
    "original/consolidated.00.pth": b"and again",
}


class Hub(BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as it takes to serve one repository."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith(f"/tiny/llama/resolve/{COMMIT}/"):
            self.send_file(path.removeprefix(f"/tiny/llama/resolve/{COMMIT}/"))
        elif path.startswith("/api/models/tiny/llama/tree/"):
            entries = [{"type": "file", "path": name, "size": len(FILES[name]), "oid": digest(name)} for name in FILES]
            self.send(json.dumps(entries).encode())
        elif path.startswith("/api/models/tiny/llama"):
            self.send(json.dumps({"id": "tiny/llama", "sha": COMMIT, "siblings": []}).encode())
        else:
            self.send(b'{"error": "Repository not found"}', 404, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def send_file(self, name: str) -> None:
        self.server.served.append(name)  # type: ignore[attr-defined]
        self.send(FILES[name], headers={"ETag": f'"{digest(name)}"', "X-Repo-Commit": COMMIT})

    def send(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def digest(name: str) -> str:
    return hashlib.sha1(FILES[name], usedforsecurity=False).hexdigest()


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.served = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def find_in_process(model: str, cache: Path, **environment: str) -> str:
    """What a fresh process finds, or the error it names; the library reads its environment once."""
    code = (
        "import sys, pathlib\n"
        "from worker.engine.folders import find_folder\n"
        "from worker.engine.types import EngineError\n"
        "try: print(find_folder(pathlib.Path(sys.argv[1])))\n"
        "except EngineError as error: print('refused:', error)\n"
        "assert 'torch' not in sys.modules"
    )
    environment |= {"HF_HOME": str(cache), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, model], capture_output=True, text=True, env=os.environ | environment, check=True
    )
    return done.stdout.strip()


def test_hub_id_is_downloaded_once_and_only_what_is_needed(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    folder = Path(find_in_process("tiny/llama", tmp_path, HF_ENDPOINT=endpoint))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        name: FILES[name] for name in ("config.json", "model.safetensors", "tokenizer.json")
    }
    hub.served.clear()  # type: ignore[attr-defined]
    assert find_in_process("tiny/llama", tmp_path, HF_HUB_OFFLINE="1") == str(folder)
    assert hub.served == []  # type: ignore[attr-defined]
    refused = find_in_process("tiny/other", tmp_path, HF_ENDPOINT=endpoint)
    assert refused.startswith("refused: tiny/other is no folder here, and the Hugging Face hub does not give a model")


def test_hub_id_offline_with_nothing_cached_is_one_sentence(tmp_path: Path) -> None:
    refused = find_in_process("tiny/llama", tmp_path, HF_HUB_OFFLINE="1")
    assert refused.startswith("refused: tiny/llama is no folder here, and the Hugging Face hub does not give")
    assert "\n" not in refused


def test_file_names_its_folder(folder: Path) -> None:
    assert find_folder(folder / "model.safetensors") == find_folder(folder) == folder


@pytest.mark.parametrize("path", ["/nowhere", "nowhere", "a/b/c", "../b"])
def test_what_is_no_id_is_not_looked_up(path: str) -> None:
    with pytest.raises(EngineError, match="there is no model folder at"):
        find_folder(Path(path))
