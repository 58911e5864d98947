"""batchmill run, with the demo model: results, bad lines, and being killed at any moment."""

import signal
from pathlib import Path

import pytest

from tests.acceptance.conftest import Desk, Json
from tests.waiting import wait_until

NUM_SLOW = 60
SLOW = [  # a few seconds of decoding, so that a kill meets rows in flight
    {"custom_id": f"slow-{number}", "prompt": f"os.path.{number}:", "max_tokens": 60 + number, "ignore_eos": True}
    | {"temperature": 0.8 if number % 2 else 0, "seed": number, "logprobs": 1}
    for number in range(NUM_SLOW)
]


RUN = ("run", "in.jsonl", "-o", "out.jsonl", "--rows", "8")  # few at a time, so that they end one after the other


def choices(lines: list[Json]) -> dict[str, Json]:
    """What was generated, by custom_id: ids and times differ between runs, nothing else may."""
    return {line["custom_id"]: line["response"]["body"]["choices"][0] for line in lines}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Json]:
    """The results of SLOW when nobody interrupts."""
    desk = Desk(tmp_path_factory.mktemp("undisturbed"))
    desk.write("in.jsonl", list(SLOW))
    done = desk.run("run", "in.jsonl", "-o", "out.jsonl")
    assert done.returncode == 0, done.stderr
    return choices(desk.read("out.jsonl"))


def finish(desk: Desk, expected: dict[str, Json]) -> None:
    """Run again to the end and compare."""
    done = desk.run(*RUN)
    assert done.returncode == 0, done.stderr
    assert "going on with an earlier run" in done.stderr
    check(desk, expected)


def check(desk: Desk, expected: dict[str, Json]) -> None:
    """Nothing lost, nothing twice, nothing changed, nothing left over."""
    lines = desk.read("out.jsonl")
    assert [line["custom_id"] for line in lines] == [line["custom_id"] for line in SLOW]
    assert choices(lines) == expected
    assert desk.leftovers() == []


def test_results_come_in_input_order_and_bad_lines_apart(desk: Desk) -> None:
    desk.write(
        "in.jsonl",
        [
            {"custom_id": "a", "prompt": "json.dumps:", "max_tokens": 20, "temperature": 0},
            "this is no JSON",
            {"custom_id": "b", "method": "POST", "url": "/v1/completions", "body": {"prompt": "math.sqrt:"}},
            {"custom_id": "a", "prompt": "again"},
            "",
            {"messages": [{"role": "user", "content": "shutil.copy"}], "max_tokens": 20, "temperature": 0},
            {"custom_id": "c", "prompt": "x", "max_tokens": -1},
            {"custom_id": "d", "prompt": "x " * 3000},
        ],
    )
    done = desk.run("run", "in.jsonl", "-o", "out.jsonl", "--errors", "bad.jsonl")
    assert done.returncode == 3, done.stderr
    first, second, chat = desk.read("out.jsonl")
    assert (first["custom_id"], second["custom_id"], chat["custom_id"]) == ("a", "b", None)
    assert first["response"]["body"]["choices"][0]["text"].strip()
    assert chat["response"]["body"]["choices"][0]["message"]["role"] == "assistant"
    errors = [(line.get("custom_id") or line["line"], line["error"]["code"]) for line in desk.read("bad.jsonl")]
    assert errors == [
        (2, "invalid_json"),
        ("a", "duplicate_custom_id"),
        ("c", "invalid_value"),
        ("d", "context_length_exceeded"),
    ]


def test_killed_worker_loses_and_repeats_nothing(desk: Desk, expected: dict[str, Json]) -> None:
    desk.write("in.jsonl", list(SLOW))
    process = desk.start(*RUN)
    wait_until(lambda: desk.num_done() > 3)
    desk.children(process)["worker"].kill()
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 0, stderr
    check(desk, expected)


def test_killed_run_leaves_nobody_behind_and_goes_on(desk: Desk, expected: dict[str, Json]) -> None:
    desk.write("in.jsonl", list(SLOW))
    process = desk.start(*RUN)
    wait_until(lambda: desk.num_done() > 3)
    desk.children(process)
    process.kill()
    process.communicate()
    assert not (desk.folder / "out.jsonl").exists()
    wait_until(lambda: desk.leftovers() == [], 15)
    assert desk.num_done() > 3
    finish(desk, expected)


def test_pulled_plug_loses_and_repeats_nothing(desk: Desk, expected: dict[str, Json]) -> None:
    desk.write("in.jsonl", list(SLOW))
    process = desk.start(*RUN)
    wait_until(lambda: desk.num_done() > 3)
    children = desk.children(process)
    process.kill()
    for child in children.values():
        child.kill()
    process.communicate()
    assert 3 < desk.num_done() < NUM_SLOW
    finish(desk, expected)


def test_interrupted_run_says_how_to_go_on(desk: Desk, expected: dict[str, Json]) -> None:
    desk.write("in.jsonl", list(SLOW))
    process = desk.start(*RUN)
    wait_until(lambda: desk.num_done() > 3)
    desk.children(process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on" in stderr
    assert "Traceback" not in stderr
    assert desk.leftovers() == []
    finish(desk, expected)


def test_finished_run_is_answered_from_its_rows(desk: Desk) -> None:
    desk.write("in.jsonl", [{"prompt": "a", "max_tokens": 2}])
    assert desk.run("run", "in.jsonl", "-o", "one.jsonl", "--model", "noop").returncode == 0
    again = desk.run("run", "in.jsonl", "-o", "two.jsonl", "--model", "noop")
    assert again.returncode == 0
    assert (desk.folder / "one.jsonl").read_bytes() == (desk.folder / "two.jsonl").read_bytes()
    fresh = desk.run("run", "in.jsonl", "-o", "three.jsonl", "--model", "noop", "--fresh")
    assert "earlier run" not in fresh.stderr


def test_standard_input_and_output(desk: Desk) -> None:
    done = desk.run("run", "-", "-o", "-", "--model", "noop", stdin='{"prompt": "abc", "max_tokens": 2}\n')
    assert done.returncode == 0, done.stderr
    assert '"text":"ab"' in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_run_row_is_found_by_its_id(desk: Desk) -> None:
    desk.write("in.jsonl", [{"prompt": "abc", "max_tokens": 2}])
    desk.run("run", "in.jsonl", "-o", "out.jsonl", "--model", "noop")
    (line,) = desk.read("out.jsonl")
    found = desk.run("jobs", "get", line["id"])
    assert found.returncode == 0, found.stderr
    assert '"status": "completed"' in found.stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (["none.jsonl", "-o", "out.jsonl"], {}, "cannot read none.jsonl"),
        ([".", "-o", "out.jsonl"], {}, "is a folder"),
        (["in.jsonl", "-o", "none/out.jsonl"], {}, "cannot write none/out.jsonl"),
        (["in.jsonl", "-o", "in.jsonl"], {}, "is the input"),
        (["in.jsonl", "-o", "out.jsonl", "--model", "none"], {}, "no model folder at none"),
        (["in.jsonl", "-o", "out.jsonl", "--model", "empty"], {}, "holds no config.json"),
        (["in.jsonl", "-o", "out.jsonl", "--model", "foreign"], {}, "bert is not supported"),
        (["in.jsonl", "-o", "out.jsonl"], {"DATABASE_URL": "postgresql://127.0.0.1:1/x"}, "does not answer"),
        (["in.jsonl", "-o", "out.jsonl"], {"DATABASE_URL": "nonsense"}, "DATABASE_URL"),
        (["in.jsonl", "-o", "out.jsonl"], {"REDIS_URL": "redis://127.0.0.1:1/0"}, "Redis does not answer"),
        (["in.jsonl", "-o", "out.jsonl"], {"BATCHMILL_ROWS": "none"}, "setting rows"),
    ],
)
def test_what_cannot_work_is_said_in_one_sentence(
    desk: Desk, arguments: list[str], environment: dict[str, str], sentence: str
) -> None:
    desk.write("in.jsonl", [{"prompt": "a"}])
    (desk.folder / "empty").mkdir()
    (desk.folder / "foreign").mkdir()
    (desk.folder / "foreign" / "config.json").write_text('{"model_type": "bert"}')
    done = desk.run("run", *arguments, **environment)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_broken_weights_are_said_in_one_sentence(desk: Desk, tmp_path: Path) -> None:
    from models.settings import DEMO_FOLDER

    model = desk.folder / "broken"
    model.mkdir()
    for path in DEMO_FOLDER.iterdir():
        if path.is_file():
            (model / path.name).write_bytes(
                path.read_bytes()[:2000] if path.suffix == ".safetensors" else path.read_bytes()
            )
    desk.write("in.jsonl", [{"prompt": "a"}])
    done = desk.run("run", "in.jsonl", "-o", "out.jsonl", "--model", "broken")
    assert done.returncode == 1
    assert "safetensors" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["run", "in.jsonl"], ["run", "in.jsonl", "-o", "x", "--bogus"], ["bogus"]])
def test_usage_errors_exit_with_two(desk: Desk, arguments: list[str]) -> None:
    assert desk.run(*arguments).returncode == 2
