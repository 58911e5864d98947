"""Where a model lies: a folder, a weight file in one, or an id on the Hugging Face hub. Reads no weights."""

import re
from pathlib import Path

from worker.engine.types import EngineError

HUGGING_FACE_CONFIG = "config.json"
META_CONFIG = "params.json"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# A repository may also hold the same weights in other formats, which would double the download.
_HUB_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def find_folder(path: Path) -> Path:
    """Name the folder of a model. Raises EngineError where there is none.

    `path` is the folder, one of its weight files, or an id such as `org/name` that is no path here: its files are then
    downloaded, or found where an earlier download left them.
    """
    folder = path.parent if path.is_file() else path
    if not folder.is_dir():
        if not is_hub_id(path):
            raise EngineError(f"there is no model folder at {path}")
        folder = _download(path.as_posix())
    if not any((folder / name).is_file() for name in (HUGGING_FACE_CONFIG, META_CONFIG)):
        raise EngineError(f"{path} holds no config.json (or Meta's params.json): it is not a model folder")
    return folder


def is_hub_id(path: Path) -> bool:
    """Say whether this is no path here and spelled as an id on the hub is: organisation/name."""
    return not path.exists() and _HUB_ID.fullmatch(path.as_posix()) is not None


def is_meta_folder(folder: Path) -> bool:
    """Say whether a model folder is laid out as Meta does."""
    return not (folder / HUGGING_FACE_CONFIG).is_file()


def _download(model_id: str) -> Path:
    """Get a snapshot from the hub; where its cache lies and which token is sent is that library's own matter."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model_id, allow_patterns=list(_HUB_FILES)))
    except Exception as error:  # a dozen types of its own, of the HTTP client's and of the system's
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise EngineError(
            f"{model_id} is no folder here, and the Hugging Face hub does not give a model of that id: {reason}"
        ) from error
