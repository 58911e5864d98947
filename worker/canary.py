"""A prompt of our own, decoded before any row is claimed: a device that is dead kills no worker with a row in hand."""

import faulthandler
import logging
import os

from worker.crashes import EXIT_CRASHED
from worker.engine.types import Request, SamplingParams
from worker.loading import DecodeEngine

log = logging.getLogger(__name__)

_REQUEST = Request("canary", prompt=[0], params=SamplingParams(max_tokens=1, temperature=0.0))


def sing(engine: DecodeEngine, *, hang_seconds: float) -> None:
    """Decode one token, or end the process: at an error, or when that hangs. Nobody else watches the engine yet."""
    faulthandler.dump_traceback_later(hang_seconds, exit=True)  # needs no interpreter, which a hung kernel may hold
    try:
        engine.add(engine.prepare(_REQUEST))
        while engine.has_work:
            engine.step()
    except Exception:
        log.critical("the device cannot decode one token", exc_info=True, extra={"action": "canary_died"})
        os._exit(EXIT_CRASHED)
    finally:
        faulthandler.cancel_dump_traceback_later()
