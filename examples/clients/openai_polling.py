"""One job through the official client: submit it, go away, come back and poll by its id.

pip install openai; batchmill serve in another terminal; then: python openai_polling.py
"""

import os

from openai import OpenAI

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"), api_key="unused-on-loopback")

# extra_body carries what OpenAI's own API has no name for. With background the answer comes at once: it is committed.
queued = client.chat.completions.create(
    model="demo",
    messages=[{"role": "user", "content": "threading.Thread"}],
    max_tokens=48,
    temperature=0,
    extra_body={"background": True},
)
print(queued.id, queued.status)

# The same job, seen as a job: `wait` holds the answer back until it is done, 60 seconds at most.
job = client.get(f"/jobs/{queued.id}?wait=60", cast_to=dict)
print(job["status"], job["usage"])

# And as what it is: a chat completion. Any process that knows the id may ask.
print(client.chat.completions.retrieve(queued.id).choices[0].message.content)
