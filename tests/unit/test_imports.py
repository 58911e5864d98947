"""Who may import whom, as data: the table of the architecture, checked by reading the imports of every module."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("api", "cli", "models", "worker")
OURS = {*PACKAGES, "benchmarks", "examples", "tests"}
ANY = "*"

SQL = {"alembic", "psycopg", "sqlalchemy"}
DATA = {"orjson", "pydantic", "pydantic_core", "pydantic_settings"}
CELERY = {"billiard", "celery", "kombu", "redis"}
TENSORS = {"huggingface_hub", "jinja2", "numpy", "safetensors", "tiktoken", "tokenizers", "torch"}

# The longest name that is a prefix of a module rules it. Beside these every module may import the standard library.
MAY_IMPORT: dict[str, set[str]] = {
    "models": {"models"} | SQL | DATA,
    "models.blobs": {"models", "fsspec"},
    "api": {"models", "api", "fastapi", "prometheus_client", "python_multipart", "starlette", "uvicorn"} | DATA,
    "api.streams.feed": {"models", "api", "redis"},
    "api.broker": {"models"} | CELERY,
    "api.rendering": {"models", "api.rendering"} | DATA,  # the command line renders with it: no FastAPI
    "worker": {"models", "worker"} | CELERY | DATA,
    "worker.validation": {"models", "worker", "numpy"},
    "worker.engine": {"worker.engine"} | TENSORS,
    "worker.engine.cuda": {"worker.engine", "triton"} | TENSORS,
    "worker.trainer": {"worker.engine", "worker.trainer", "matplotlib"} | TENSORS,
    "cli": {ANY},  # lazily: see the test that imports cli.main
}
NO_ENVIRONMENT = "worker.engine"
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv"}


def modules() -> dict[str, ast.Module]:
    """Every module of the four packages, parsed. A package keeps its `.__init__`: relative imports count from there."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_bytes()) for path in paths}


def imports(name: str, tree: ast.Module) -> Iterator[str]:
    """The full dotted names that a module imports, inside functions and `if TYPE_CHECKING` too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(name, node)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def absolute(name: str, node: ast.ImportFrom) -> str:
    """The module named by a from-import, a relative one resolved."""
    above = name.split(".")[: -node.level] if node.level else []
    return ".".join([*above, *([node.module] if node.module else [])])


def import_graph(trees: dict[str, ast.Module]) -> TopologicalSorter[str]:
    """The graph of who imports whom; sorting it fails on a cycle and names it."""
    graph: TopologicalSorter[str] = TopologicalSorter()
    for name, tree in trees.items():
        found = {f"{target}{suffix}" for target in targets(name, tree) for suffix in ("", ".__init__")}
        graph.add(name, *(found & trees.keys() - {name}))
    return graph


def targets(name: str, tree: ast.Module) -> Iterator[str]:
    """What each import may mean: `from a import b` is module a.b, or the name b of module a."""
    for imported in imports(name, tree):
        yield from (imported, imported.rpartition(".")[0])


def ruled_by(name: str) -> str:
    """The entry of the table that a module falls under."""
    return max((prefix for prefix in MAY_IMPORT if is_within(name, prefix)), key=len)


def is_within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def forbidden(name: str, tree: ast.Module) -> list[str]:
    """The imports of a module that the table does not allow."""
    allowed = MAY_IMPORT[ruled_by(name)]
    return [imported for imported in imports(name, tree) if not is_allowed(imported, allowed)]


def is_allowed(imported: str, allowed: set[str]) -> bool:
    """Our own packages fall under the table's longest prefix, so that `worker` does not open the engine to all."""
    if imported.split(".")[0] in sys.stdlib_module_names:
        return True
    if ANY in allowed:
        return not any(is_within(imported, package) for package in OURS - set(PACKAGES))
    return any(is_within(imported, prefix) for prefix in allowed)


def environment_reads(tree: ast.Module) -> list[int]:
    """The lines that reach for environment variables."""
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute | ast.ImportFrom))
    return [node.lineno for node in nodes if reads_environment(node)]


def reads_environment(node: ast.Attribute | ast.ImportFrom) -> bool:
    if isinstance(node, ast.Attribute):
        return isinstance(node.value, ast.Name) and node.value.id == "os" and node.attr in ENVIRONMENT
    return node.module == "os" and any(alias.name in ENVIRONMENT for alias in node.names)


def loaded(statement: str, *names: str) -> set[str]:
    """Which of the named modules a fresh interpreter has after a statement."""
    code = f"{statement}; import sys; print(*sorted(sys.modules))"
    command = [sys.executable, "-W", "error::ImportWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(names) & set(done.stdout.split())


def test_modules_import_only_what_the_table_allows() -> None:
    wrong = {name: found for name, tree in modules().items() if (found := forbidden(name, tree))}

    assert wrong == {}


def test_modules_have_no_import_cycle() -> None:
    trees = modules()

    assert set(import_graph(trees).static_order()) == trees.keys()


def test_import_cycle_is_found() -> None:
    trees = {"models.a": ast.parse("from models import b"), "models.b": ast.parse("def f():\n    from .a import x")}

    with pytest.raises(CycleError):
        import_graph(trees).prepare()


def test_engine_never_reads_the_environment() -> None:
    engine = {name: tree for name, tree in modules().items() if is_within(name, NO_ENVIRONMENT)}

    assert len(engine) > 1
    assert {name: lines for name, tree in engine.items() if (lines := environment_reads(tree))} == {}


def test_api_loads_no_tensors_and_no_worker() -> None:
    assert loaded("import api.app", "torch", "numpy", "worker") == set()


def test_rendering_loads_no_web_framework() -> None:
    names = ", ".join(name for name in modules() if is_within(name, "api.rendering") and not name.endswith("__"))

    assert loaded(f"import {names}", "fastapi", "starlette", "celery", "torch") == set()


def test_command_line_starts_light() -> None:
    heavy = ("torch", "numpy", "fastapi", "celery", "transformers")

    assert loaded("import cli.main", *heavy) == set()


def test_models_load_no_service() -> None:
    found = (name.removesuffix(".__init__") for name in modules() if is_within(name, "models"))
    names = ", ".join(name for name in found if "migrations" not in name)  # those run inside Alembic alone

    assert loaded(f"import {names}", "celery", "kombu", "fastapi", "torch", "numpy") == set()


@pytest.mark.parametrize("module", ["celery_app", "result_backend", "tasks"])
def test_producers_load_no_tensors(module: str) -> None:
    """A service that only submits imports these; it has no torch."""
    assert loaded(f"import worker.{module}", "torch", "numpy", "fastapi") == set()


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("models.store", "import celery"),
        ("models.store", "def f():\n    from worker import tasks"),
        ("models.store", "from tests import fakes"),
        ("api.routes.jobs", "from worker.pool import DecodePool"),
        ("api.routes.jobs", "import sqlalchemy"),
        ("api.routes.jobs", "import celery"),
        ("api.rendering.bodies", "from fastapi import Response"),
        ("api.rendering.bodies", "from .. import app"),
        ("worker.pool", "import torch"),
        ("worker.pool", "from api.rendering.bodies import completion"),
        ("worker.engine.engine", "from models.records import JobRecord"),
        ("worker.engine.engine", "from .. import tasks"),
        ("worker.trainer.train", "from ..celery_app import app"),
        ("cli.main", "from tests.fakes import FakeEngine"),
    ],
)
def test_table_refuses(name: str, source: str) -> None:
    assert forbidden(name, ast.parse(source))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("api.broker", "from celery import Celery"),
        ("api.routes.jobs", "from ..errors import table"),
        ("worker.pool", "from worker.engine.engine import Engine"),
        ("worker.engine.engine", "from .types import Output\nimport torch.nn.functional"),
        ("cli.run", "import torch, worker.pool, api.app"),
    ],
)
def test_table_allows(name: str, source: str) -> None:
    assert forbidden(name, ast.parse(source)) == []


def test_relative_import_of_a_package_stays_inside_it() -> None:
    tree = ast.parse("from .types import Output\nfrom ..keeper import x")

    assert list(imports("worker.engine.__init__", tree)) == ["worker.engine.types.Output", "worker.keeper.x"]


@pytest.mark.parametrize("source", ["import os\nos.environ['A']", "from os import getenv", "import os\nx = os.getenv"])
def test_environment_reads_are_found(source: str) -> None:
    assert environment_reads(ast.parse(source))
