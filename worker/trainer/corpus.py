"""The demo model's text: what each name of Python's standard library does, from the running interpreter.

One line an entry, "json.dumps: Serialize obj to a JSON formatted str." Knows nothing of tokens or tensors.
The text is Python's own documentation, under the PSF licence.
"""

import contextlib
import hashlib
import importlib
import inspect
import io
import keyword
import pkgutil
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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
_METHOD = re.compile(r"[\w.]+\.[A-Z]\w*\.\w+")  # of a class in CapWords
_MACHINE_BOUND = re.compile(r"0x[0-9a-f]{6,}|/(home|usr|root|tmp|opt|work)/", re.IGNORECASE)
_CALLABLES = (type, property, classmethod, staticmethod)


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """A name of the standard library and its one-line summary."""

    name: str
    summary: str

    @property
    def prompt(self) -> str:
        """The part a user types."""
        return f"{self.name}:"

    @property
    def line(self) -> str:
        """Prompt and answer, as the model is trained on them."""
        return f"{self.name}: {self.summary}"


def standard_library_entries() -> list[Entry]:
    """Summaries of public modules, classes, functions, methods and keywords, sorted by name.

    The order depends on the interpreter's version alone, never on hash seeds or on what is already imported.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # deprecated modules say so when imported
        found = [entry for module in _modules() for entry in _module_entries(module)]
    return _without_repeats([*found, *_topic_entries()])


def in_validation(entry: Entry, *, percent: int) -> bool:
    """Whether an entry is held out: a share of the methods ("pathlib.Path.touch"), by hash of the summary.

    By the summary, so that twins stay on one side; methods only, so that the demo knows every module and function.
    """
    digest = hashlib.sha256(entry.summary.encode()).digest()
    return bool(_METHOD.fullmatch(entry.name)) and int.from_bytes(digest[:4], "big") % 100 < percent


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


def _module_entries(module: ModuleType) -> Iterator[Entry]:
    shown = "os.path" if module.__name__ == "posixpath" else module.__name__
    yield from _entry(shown, module.__doc__)
    for name in _public_names(module):
        value = getattr(module, name)
        if inspect.isroutine(value) or inspect.isclass(value):
            qualified = name if module.__name__ == "builtins" else f"{shown}.{name}"
            yield from _entry(qualified, value.__doc__)
            yield from _member_entries(qualified, value)
    if module.__name__ == "os":
        yield from _module_entries(sys.modules["os"].path)


def _public_names(module: ModuleType) -> list[str]:
    """`__all__` where there is one, else the public names the module itself defines."""
    declared = getattr(module, "__all__", None)
    if declared is not None:
        return sorted(name for name in declared if hasattr(module, name))
    return sorted(name for name in vars(module) if not name.startswith("_") and _is_own(module, name))


def _is_own(module: ModuleType, name: str) -> bool:
    home = getattr(vars(module)[name], "__module__", None) or ""
    return module.__name__ == "builtins" or home.lstrip("_").split(".")[0] == module.__name__.split(".")[0]


def _member_entries(owner: str, value: object) -> Iterator[Entry]:
    """Public methods and properties a class defines itself."""
    if not isinstance(value, type) or issubclass(value, BaseException):
        return
    for name in sorted(vars(value)):
        member = vars(value)[name]
        if not name.startswith("_") and (inspect.isroutine(member) or isinstance(member, _CALLABLES)):
            yield from _entry(f"{owner}.{name}", member.__doc__)


def _topic_entries() -> Iterator[Entry]:
    """The language reference's words on each keyword, as `help("with")` shows them."""
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError:  # some systems package it apart
        return
    for name in sorted(filter(keyword.iskeyword, topics)):
        yield from _entry(name, re.sub(r"\A.*\n\*+\n", "", topics[name]))


def _entry(name: str, docstring: object) -> Iterator[Entry]:
    if not isinstance(docstring, str):
        return
    own_name, text = name.rpartition(".")[2], docstring.lstrip()
    repeats = text.startswith((f"{own_name}:", f"{own_name} - "))  # "Popen - Execute a child program"
    summary = summarise(text[len(own_name) :].lstrip(" -:") if repeats else docstring)
    if summary is not None:
        yield Entry(name, summary)


def _without_repeats(entries: Iterable[Entry]) -> list[Entry]:
    """One entry a name, and one name for what several modules re-export: the shortest."""
    shortest: dict[tuple[str, str], Entry] = {}
    for entry in sorted(entries, key=lambda entry: (entry.name.count("."), len(entry.name), entry)):
        shortest.setdefault((entry.name.rpartition(".")[2], entry.summary), entry)
    by_name = {entry.name: entry for entry in sorted(shortest.values(), reverse=True)}
    return sorted(by_name.values())
