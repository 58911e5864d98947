"""Send one message a prompt to the celery-batches worker, with the Celery that it needs."""

import json
import os
import sys
from pathlib import Path

from celery import Celery

app = Celery("sender", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])

if __name__ == "__main__":
    for prompt, max_tokens in json.loads(Path(sys.argv[1]).read_text()):
        app.send_task("batches.generate", args=(prompt, max_tokens), queue="batches")
