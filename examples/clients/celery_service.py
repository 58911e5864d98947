"""A service that has Celery already: generations as the header of a chord whose body is a task of its own.

batchmill serve                                             # in another terminal; leaves .batchmill/redis.url
celery -A celery_service worker --pool solo                 # this service's own worker
python celery_service.py json.dumps os.path.join            # sends the work and prints what came of it
"""

import os
import sys
from pathlib import Path

from celery import Celery, chord, signature

STATE = Path(os.environ.get("BATCHMILL_STATE_DIR", ".batchmill")).resolve()
REDIS_URL = os.environ.get("REDIS_URL") or (STATE / "redis.url").read_text().strip()
DATABASE_URL = os.environ.get("DATABASE_URL", f"sqlite:///{STATE / 'batchmill.db'}")

app = Celery("celery_service", broker=REDIS_URL, backend=f"worker.result_backend:JobsBackend+{DATABASE_URL}")
app.conf.result_backend_transport_options = {"other_tasks": REDIS_URL}  # where results of our own tasks live
app.conf.task_default_queue = "celery_service"


@app.task
def longest(results: list[dict[str, str]]) -> str:
    """The longest of the answers."""
    return max((result["text"] for result in results), key=len).strip()


def generate(name: str) -> object:
    """One generation, ready to be sent; the queue names the model."""
    arguments = {"prompt": f"{name}:", "max_tokens": 48, "temperature": 0}
    return signature("generate", kwargs=arguments, queue="generate.demo", app=app)


if __name__ == "__main__":
    names = sys.argv[1:] or ["json.dumps", "os.path.join", "threading.Thread"]
    print(chord([generate(name) for name in names])(longest.s()).get(timeout=120))
