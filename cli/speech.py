"""`batchmill jobs speak`: a job's result, read aloud or into a WAV file. Only this module needs the extra [speech]."""

import importlib
import shutil
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Protocol

from cli.jobs import find_job
from models.errors import BatchmillError
from models.settings import Settings
from models.status import Status

_WHAT_TO_INSTALL = (
    "speech needs pyttsx3 and a synthesizer: pip install 'batchmill[speech]', and on Linux apt install espeak-ng"
)


class SpeechError(BatchmillError):
    """The result cannot be spoken."""


class Voice(Protocol):
    """Turns text with a letter or a digit in it into sound. Methods return when it is over, or raise SpeechError."""

    def say(self, text: str) -> None:
        """Speak through the machine's loudspeaker."""

    def save(self, text: str, path: Path) -> None:
        """Write a WAV file, replacing one of the same name."""


class InstalledVoice:
    """The system's synthesizer (espeak-ng, NSSpeechSynthesizer, SAPI5), through pyttsx3."""

    def __init__(self) -> None:
        try:
            self._engine: Any = importlib.import_module("pyttsx3").init()
        except Exception as error:  # each system's driver raises its own
            raise SpeechError(f"{_WHAT_TO_INSTALL} ({type(error).__name__}: {error})") from error

    def say(self, text: str) -> None:
        """Speak through the machine's loudspeaker."""
        if sys.platform == "linux" and shutil.which("aplay") is None:
            raise SpeechError("playing speech on Linux needs aplay: apt install alsa-utils, or use --output FILE.wav")
        self._engine.say(text)
        self._run()

    def save(self, text: str, path: Path) -> None:
        """Write a WAV file, replacing one of the same name."""
        try:
            # The library waits for ever where it cannot write, so it writes where it can.
            with tempfile.TemporaryDirectory(prefix="batchmill-speech-") as folder:
                spoken = Path(folder) / "speech.wav"
                self._engine.save_to_file(text, str(spoken))
                self._run()
                shutil.copyfile(spoken, path)
        except OSError as error:
            raise SpeechError(f"cannot write {path}: {error.strerror}") from error

    def _run(self) -> None:
        """Synthesize; the library reports to stdout, where only data may go."""
        with redirect_stdout(sys.stderr):
            self._engine.runAndWait()


def speak_job(settings: Settings, job_id: str, *, output: Path | None, voice: Voice | None = None) -> None:
    """Speak a completed job's first answer, or write it to `output`. Raises NotFound and SpeechError."""
    text = _spoken_text(settings, job_id)
    voice = voice or InstalledVoice()
    if output is None:
        voice.say(text)
    else:
        voice.save(text, output)


def _spoken_text(settings: Settings, job_id: str) -> str:
    job = find_job(settings, job_id)
    if job.status is not Status.COMPLETED:
        raise SpeechError(f"job {job_id[:64]} is {job.status}: only a completed job has something to say")
    text = job.completions[0].text
    if not any(map(str.isalnum, text)):
        raise SpeechError(f"the answer of job {job_id[:64]} holds no word to speak")
    return text
