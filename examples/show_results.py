"""Print prompts beside what became of them: python examples/show_results.py PROMPTS RESULTS."""

import json
import sys
from pathlib import Path
from typing import Any

MAX_SHOWN = 12
WIDTH = 76


def main(prompts: Path, results: Path) -> None:
    """Show the first results in the order of the file; both files are JSONL, one line a prompt."""
    asked = {line.get("custom_id") or number: line for number, line in read(prompts).items()}
    answered = list(read(results).values())
    for line in answered[:MAX_SHOWN]:
        print(f"\n  {prompt_of(asked[line['custom_id'] or line['line']])}")
        print(f"    -> {one_line(answer_of(line))}")
    if len(answered) > MAX_SHOWN:
        print(f"\n  ... and {len(answered) - MAX_SHOWN} more in {results}")


def read(path: Path) -> dict[int, dict[str, Any]]:
    """The objects of a JSONL file by the number of their line, from 1."""
    with path.open(encoding="utf-8") as lines:
        return {number: json.loads(line) for number, line in enumerate(lines, start=1) if line.strip()}


def prompt_of(line: dict[str, Any]) -> str:
    """The prompt of a line in short or in batch form."""
    body = line.get("body", line)
    text = body.get("prompt") or " / ".join(message["content"] for message in body.get("messages", []))
    return one_line(str(text))


def answer_of(line: dict[str, Any]) -> str:
    """The generated text of an output line."""
    choice = line["response"]["body"]["choices"][0]
    return str(choice["text"] if "text" in choice else choice["message"]["content"])


def one_line(text: str) -> str:
    """The text with its white space folded, cut to the width of a terminal."""
    folded = " ".join(text.split())
    return folded if len(folded) <= WIDTH else folded[: WIDTH - 1] + "…"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
