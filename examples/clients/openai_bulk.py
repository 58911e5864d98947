"""Bulk work through the official client: upload a file, create a batch, watch it, read the results.

pip install openai; batchmill serve in another terminal; then: python openai_bulk.py
"""

import json
import os
import time

from openai import OpenAI

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"), api_key="unused-on-loopback")
names = ["json.dumps", "os.path.join", "threading.Thread", "math.sqrt"]
lines = [
    {
        "custom_id": name,
        "method": "POST",
        "url": "/v1/completions",
        "body": {"model": "demo", "prompt": f"{name}:", "max_tokens": 48, "temperature": 0},
    }
    for name in names
]
text = "".join(json.dumps(line) + "\n" for line in lines)
uploaded = client.files.create(file=("names.jsonl", text.encode()), purpose="batch")
batch = client.batches.create(
    input_file_id=uploaded.id,
    endpoint="/v1/completions",
    completion_window="1h",  # any number of s, m, h or d
    metadata={"made_by": "openai_bulk.py"},
)
while batch.status not in ("completed", "failed", "expired", "cancelled"):
    time.sleep(0.5)
    batch = client.batches.retrieve(batch.id)
    counts = batch.request_counts
    print(f"{batch.status}: {counts.completed} of {counts.total} done, {counts.failed} failed")

if batch.output_file_id:  # None where no line completed
    for line in client.files.content(batch.output_file_id).text.splitlines():
        result = json.loads(line)
        print(f"{result['custom_id']}: {result['response']['body']['choices'][0]['text'].strip()}")
if batch.error_file_id:
    print(client.files.content(batch.error_file_id).text)
