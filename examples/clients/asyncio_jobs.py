"""A thousand jobs from asyncio: submit them all, then ask for all of them in one call until they are done.

pip install openai; batchmill serve in another terminal; then: python asyncio_jobs.py [NUMBER]
"""

import asyncio
import os
import sys

from openai import AsyncOpenAI

BASE_URL = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
AT_ONCE = 32  # connections; the service commits in groups, so that many cost little more than one
POLL_MAX = 1000  # ids in one call


async def main(number: int) -> None:
    """Submit, poll, count."""
    async with AsyncOpenAI(base_url=BASE_URL, api_key="unused-on-loopback") as client:
        turns = asyncio.Semaphore(AT_ONCE)

        async def submit(index: int) -> str:
            async with turns:
                queued = await client.completions.create(
                    model="demo",
                    prompt=f"function_{index}:",
                    max_tokens=8,
                    seed=index,
                    extra_body={"background": True, "metadata": {"index": str(index)}},
                )
                return queued.id

        waiting = await asyncio.gather(*map(submit, range(number)))
        print(f"{len(waiting)} jobs accepted")
        finished: dict[str, str] = {}
        while waiting:
            body = {"ids": waiting[:POLL_MAX], "wait": 10}
            page = await client.post("/jobs/poll", body=body, cast_to=dict)
            finished |= {job["id"]: job["status"] for job in page["data"] if job["finished_at"] is not None}
            waiting = [job_id for job_id in waiting if job_id not in finished]
            print(f"{len(finished)} of {number} done")
        print({status: list(finished.values()).count(status) for status in set(finished.values())})


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
