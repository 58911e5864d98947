"""Speaking a job's result: one contract for the stub and the installed voice, and what the command refuses."""

import array
import importlib.util
import math
import shutil
import subprocess
import sys
import wave
from pathlib import Path
from uuid import UUID

import pytest

from cli.speech import InstalledVoice, SpeechError, Voice, speak_job
from models.claims import Claims
from models.database import Database
from models.errors import NotFound
from models.ids import uuid7
from models.records import CompletionRecord, NewJob, Outcome, WorkerRecord
from models.settings import Settings, load_settings
from models.status import Status
from models.store import Store

IS_INSTALLED = importlib.util.find_spec("pyttsx3") is not None and shutil.which("espeak-ng") is not None
needs_espeak = pytest.mark.skipif(not IS_INSTALLED, reason="pyttsx3 and espeak-ng are not both installed")


class StubVoice:
    """A voice that hums one tone a character, and remembers what it said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def save(self, text: str, path: Path) -> None:
        tone = array.array("h", (int(9000 * math.sin(0.1 * step)) for step in range(800 * len(text))))
        try:
            with path.open("wb") as file, wave.open(file, "wb") as sound:
                sound.setparams((1, 2, 22050, 0, "NONE", ""))
                sound.writeframes(tone.tobytes())
        except OSError as error:
            raise SpeechError(f"cannot write {path}: {error.strerror}") from error


def samples(path: Path) -> list[int]:
    """The samples of a WAV file of 16 bits."""
    with wave.open(str(path)) as sound:
        assert sound.getsampwidth() == 2
        return list(array.array("h", sound.readframes(sound.getnframes())))


@pytest.fixture(params=[StubVoice, pytest.param(InstalledVoice, marks=needs_espeak)])
def voice(request: pytest.FixtureRequest) -> Voice:
    made: Voice = request.param()
    return made


def test_a_voice_writes_sound_that_is_not_silence(voice: Voice, tmp_path: Path) -> None:
    voice.save("Serialize an object to a string.", tmp_path / "a.wav")
    heard = samples(tmp_path / "a.wav")
    assert len(heard) > 5000
    assert max(heard) - min(heard) > 3000


def test_a_longer_text_is_a_longer_sound_and_files_are_replaced(
    voice: Voice, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    voice.save("Yes.", tmp_path / "a.wav")
    short = len(samples(tmp_path / "a.wav"))
    voice.save("Yes, and then the square root of seventeen.", tmp_path / "a.wav")
    assert len(samples(tmp_path / "a.wav")) > 2 * short
    assert capsys.readouterr().out == ""


def test_a_voice_says_where_it_cannot_write(voice: Voice, tmp_path: Path) -> None:
    """The library itself waits for ever."""
    with pytest.raises(SpeechError, match=r"cannot write .*missing"):
        voice.save("Yes.", tmp_path / "missing" / "a.wav")


@needs_espeak
@pytest.mark.skipif(sys.platform != "linux", reason="aplay is Linux's")
def test_the_installed_voice_plays_through_aplay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SpeechError, match="apt install alsa-utils, or use --output"):
        InstalledVoice().say("Yes.")
    player = tmp_path / "aplay"
    player.write_text(f'#!/bin/sh\n/bin/cp "$1" {tmp_path}/played.wav\n')
    player.chmod(0o755)
    InstalledVoice().say("Yes.")
    assert max(samples(tmp_path / "played.wav")) > 1000


@pytest.fixture
def settings(tmp_path: Path, sqlite_url: str) -> Settings:
    return load_settings(state_dir=tmp_path, database_url=sqlite_url)


def finished_job(url: str, *texts: str) -> UUID:
    """Store a job that a worker completed with these answers; without one it is still queued."""
    database = Database(url)
    job = NewJob(uuid7(), "demo", "/v1/completions", {"prompt": "hello"})
    Store(database).submit([job])
    if texts:
        claims = Claims(database)
        worker = WorkerRecord(uuid7(), "host/0", "host", 1, "demo", rows=8)
        claims.register(worker, lease_seconds=60)
        (claimed,) = claims.claim(worker.id, [job.id])
        answers = tuple(CompletionRecord(index, text, (1,), "stop", 1, 1) for index, text in enumerate(texts))
        claims.commit(worker.id, [Outcome(claimed.id, claimed.attempt, Status.COMPLETED, answers)])
    database.dispose()
    return job.id


def test_the_first_answer_is_said_or_written(settings: Settings, sqlite_url: str, tmp_path: Path) -> None:
    job_id = str(finished_job(sqlite_url, "Dump it.", "Other."))
    voice = StubVoice()
    speak_job(settings, job_id, output=None, voice=voice)
    assert voice.said == ["Dump it."]
    speak_job(settings, job_id, output=tmp_path / "a.wav", voice=voice)
    assert len(samples(tmp_path / "a.wav")) == 800 * len("Dump it.")


def test_what_has_no_words_is_refused(settings: Settings, sqlite_url: str) -> None:
    """The library waits for ever on an empty text."""
    for texts, message in (((), "is queued: only a completed job"), ((" \n.",), "no word to speak")):
        job_id = str(finished_job(sqlite_url, *texts))
        with pytest.raises(SpeechError, match=message):
            speak_job(settings, job_id, output=None, voice=StubVoice())
    with pytest.raises(NotFound):
        speak_job(settings, str(uuid7()), output=None, voice=StubVoice())


def test_the_command_says_what_to_install_in_one_sentence(sqlite_url: str, tmp_path: Path) -> None:
    """Run where pyttsx3 cannot be imported: a module of that name that fails stands in its way."""
    (tmp_path / "pyttsx3.py").write_text("raise ModuleNotFoundError('hidden')")
    command = [sys.executable, "-m", "cli.main", "jobs", "speak", str(finished_job(sqlite_url, "Yes."))]
    environment = {"PYTHONPATH": f"{tmp_path}:{Path.cwd()}", "DATABASE_URL": sqlite_url, "PATH": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("batchmill: speech needs pyttsx3 and a synthesizer: pip install 'batchmill[speech]'")
    assert done.stderr.count("\n") == 1
