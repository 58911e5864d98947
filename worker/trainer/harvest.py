"""Reads what each name of Python's standard library does, as (name, one-line summary) pairs.

Run as a program of its own by `corpus`, in an interpreter that has loaded nothing else: test runners and libraries
patch the standard library, documentation included. Imports that library alone; prints one JSON array.
"""

import contextlib
import importlib
import inspect
import io
import json
import keyword
import pkgutil
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from types import ModuleType

MIN_SUMMARY_CHARS = 12  # "See above." teaches nothing
MAX_SUMMARY_CHARS = 240

# Left out: importing them opens a browser or prints, they are tools and not a library, many systems lack them, or
# they repeat another module under a second name (os is posix, os.path is posixpath).
_SKIPPED = frozenset(
    (
        *("antigravity", "distutils", "ensurepip", "genericpath", "idlelib", "lib2to3", "msilib", "nt", "ntpath"),
        *("nturl2path", "opcode", "posix", "posixpath", "pydoc_data", "sre_compile", "sre_constants", "sre_parse"),
        *("test", "this", "tkinter", "turtledemo"),
    )
)
_PROSE = re.compile(r"[A-Za-z]{2,} [A-Za-z]")
_SIGNATURE = re.compile(r"[\w.]+ ?(\[[^\]]*\])?\(|[\w.]+ ?=|[\w.\[\], ]+ -> |>>>|[-=*+#|.]{3,}|[:.@$]")
_MACHINE_BOUND = re.compile(r"0x[0-9a-f]{6,}|/(home|usr|root|tmp|opt|work)/", re.IGNORECASE)
_CALLABLES = (type, property, classmethod, staticmethod)

Pair = tuple[str, str]  # name, summary


def main() -> None:
    """Print the pairs as JSON."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # deprecated modules say so when imported
        pairs = read_pairs()
    sys.stdout.write(json.dumps(pairs))


def read_pairs() -> list[Pair]:
    """Summaries of public modules, classes, functions, methods and keywords, sorted by name."""
    modules = list(_modules())  # all of them first: curses.has_key is a function until its module is imported
    found = [pair for module in modules for pair in _module_pairs(module)]
    return _without_repeats([*found, *_topic_pairs()])


def summarise(docstring: str | None) -> str | None:
    """The first paragraph of prose as one line, cut after a sentence; None where there is no prose."""
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(docstring or ""))
    for paragraph in paragraphs[:3]:
        text = _plain(paragraph.partition("\n ")[0])  # what is indented is a list or code
        if _SIGNATURE.match(text) or not _PROSE.search(text):
            continue
        return _whole_sentences(text)
    return None


def _plain(paragraph: str) -> str:
    """One line, one kind of quote, no markup."""
    text = " ".join(paragraph.split())
    for fancy, plain in (("‘", "'"), ("’", "'"), ("“", '"'), ("”", '"'), ("``", "`"), ("''", "'")):
        text = text.replace(fancy, plain)
    return re.sub(r":\w+:`([^`]*)`", r"\1", text).replace("`", "'").rstrip(" :,;")


def _whole_sentences(text: str) -> str | None:
    """As many whole sentences as fit; None for text that is too short, too long or bound to a machine."""
    if len(text) > MAX_SUMMARY_CHARS:
        ends = [match.end() for match in re.finditer(r"[.!?](?= [A-Z\"'(])", text[: MAX_SUMMARY_CHARS + 2])]
        text = text[: ends[-1]] if ends else ""
    if len(text) < MIN_SUMMARY_CHARS or not text.isascii() or _MACHINE_BOUND.search(text):
        return None
    return text if text[-1] in ".!?" else f"{text}."


def _modules() -> Iterator[ModuleType]:
    """Every public module that can be imported here, packages walked through."""
    names = sorted(name for name in sys.stdlib_module_names if not name.startswith("_") and name not in _SKIPPED)
    for name in names:
        yield from _walk(name)


def _walk(name: str) -> Iterator[ModuleType]:
    try:
        module = importlib.import_module(name)
    except Exception:  # made for another platform, or built without its C library: that module has no say
        return
    yield module
    if name == "encodings":  # a hundred codecs that say the same
        return
    for child in sorted(info.name for info in pkgutil.iter_modules(getattr(module, "__path__", []))):
        if not child.startswith("_") and child not in ("test", "tests", "idle_test"):
            yield from _walk(f"{name}.{child}")


def _module_pairs(module: ModuleType) -> Iterator[Pair]:
    shown = "os.path" if module.__name__ == "posixpath" else module.__name__
    yield from _pair(shown, module.__doc__)
    for name in _public_names(module):
        value = getattr(module, name)
        if inspect.isroutine(value) or inspect.isclass(value):
            qualified = name if module.__name__ == "builtins" else f"{shown}.{name}"
            yield from _pair(qualified, value.__doc__)
            yield from _member_pairs(qualified, value)
    if module.__name__ == "os":
        yield from _module_pairs(sys.modules["os"].path)


def _public_names(module: ModuleType) -> list[str]:
    """`__all__` where there is one, else the public names the module itself defines."""
    declared = getattr(module, "__all__", None)
    if declared is not None:
        return sorted(name for name in declared if hasattr(module, name))
    return sorted(name for name in vars(module) if not name.startswith("_") and _is_own(module, name))


def _is_own(module: ModuleType, name: str) -> bool:
    home = getattr(vars(module)[name], "__module__", None) or ""
    return module.__name__ == "builtins" or home.lstrip("_").split(".")[0] == module.__name__.split(".")[0]


def _member_pairs(owner: str, value: object) -> Iterator[Pair]:
    """Public methods and properties a class defines itself."""
    if not isinstance(value, type) or issubclass(value, BaseException):
        return
    for name in sorted(vars(value)):
        member = vars(value)[name]
        if not name.startswith("_") and (inspect.isroutine(member) or isinstance(member, _CALLABLES)):
            yield from _pair(f"{owner}.{name}", member.__doc__)


def _topic_pairs() -> Iterator[Pair]:
    """The language reference's words on each keyword, as `help("with")` shows them."""
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError:  # some systems package it apart
        return
    for name in sorted(filter(keyword.iskeyword, topics)):
        yield from _pair(name, re.sub(r"\A.*\n\*+\n", "", topics[name]))


def _pair(name: str, docstring: object) -> Iterator[Pair]:
    if not isinstance(docstring, str):
        return
    own_name, text = name.rpartition(".")[2], docstring.lstrip()
    repeats = text.startswith((f"{own_name}:", f"{own_name} - "))  # "Popen - Execute a child program"
    summary = summarise(text[len(own_name) :].lstrip(" -:") if repeats else docstring)
    if summary is not None:
        yield name, summary


def _without_repeats(pairs: Iterable[Pair]) -> list[Pair]:
    """One summary a name, and one name for what several modules re-export: the shortest."""
    shortest: dict[Pair, Pair] = {}
    for name, summary in sorted(pairs, key=lambda pair: (pair[0].count("."), len(pair[0]), pair)):
        shortest.setdefault((name.rpartition(".")[2], summary), (name, summary))
    by_name = dict(sorted(shortest.values(), reverse=True))
    return sorted(by_name.items())


if __name__ == "__main__":
    main()
