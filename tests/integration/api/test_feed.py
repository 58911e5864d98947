"""One question for all who listen to feeds: each hears its own from its own place."""

import asyncio
from uuid import UUID

import redis

from api.streams.feed import BEGINNING, Entries, Feed
from models.ids import uuid7
from tests.integration.api.conftest import NO_REDIS
from tests.integration.api.streams import Publisher


def texts(entries: Entries) -> list[str]:
    return [delta.text for delta in entries.deltas]


async def read(feed: Feed, job_id: UUID, after: bytes = BEGINNING) -> Entries:
    return await asyncio.wait_for(feed.read(job_id, after=after), 5)


def test_listener_reads_on_from_its_place(redis_url: str) -> None:
    async def listen() -> None:
        feed, job_id = Feed(redis_url), uuid7()
        publisher = Publisher(redis_url, job_id)
        publisher.say("a", "b")
        first = await read(feed, job_id)
        waiting = asyncio.create_task(read(feed, job_id, first.last))
        await asyncio.sleep(0)
        publisher.say("c")
        assert [texts(first), texts(await waiting)] == [["a", "b"], ["c"]]
        await feed.close()
        publisher.close()

    asyncio.run(listen())


def test_listener_who_comes_during_a_question_misses_nothing(redis_url: str) -> None:
    """The answer to a question that was asked for others began behind the beginning, and was told to the newcomer."""

    async def listen() -> None:
        feed = Feed(redis_url)
        for _ in range(20):  # each time the newcomer meets another moment of the question
            job_id = uuid7()
            publisher = Publisher(redis_url, job_id)
            publisher.say("a")
            first = await read(feed, job_id)
            early = asyncio.create_task(read(feed, job_id, first.last))
            await asyncio.sleep(0.007)
            late = asyncio.create_task(read(feed, job_id))
            await asyncio.sleep(0)
            publisher.say("b")
            assert texts(await early) == ["b"]
            assert texts(await late)[0] == "a"
            publisher.close()
        await feed.close()

    asyncio.run(listen())


def test_feeds_are_not_mixed_up(redis_url: str) -> None:
    async def listen() -> None:
        feed, ids = Feed(redis_url), [uuid7() for _ in range(50)]
        waiting = [asyncio.create_task(read(feed, job_id)) for job_id in ids]
        await asyncio.sleep(0)
        for index, job_id in enumerate(ids):
            publisher = Publisher(redis_url, job_id)
            publisher.say(str(index))
            publisher.close()
        assert [texts(await task) for task in waiting] == [[str(index)] for index in range(50)]
        with redis.Redis.from_url(redis_url) as client:
            assert len([one for one in client.client_list() if one["cmd"] == "xread"]) == 1, "one for all who listen"
        await feed.close()

    asyncio.run(listen())


def test_redis_that_is_away_says_nothing() -> None:
    async def listen() -> None:
        feed = Feed(NO_REDIS)
        waiting = asyncio.create_task(feed.read(uuid7(), after=BEGINNING))
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        assert not done
        waiting.cancel()
        await feed.close()

    asyncio.run(listen())


def test_redis_that_comes_back_is_heard(redis_url: str) -> None:
    """Its client's connection is cut in the middle of a question."""

    async def listen() -> None:
        feed, job_id = Feed(redis_url), uuid7()
        publisher = Publisher(redis_url, job_id)
        waiting = asyncio.create_task(read(feed, job_id))
        await asyncio.sleep(0.05)
        with redis.Redis.from_url(redis_url) as client:
            client.client_kill_filter(_type="normal", skipme=True)
        publisher.say("a")
        assert texts(await waiting) == ["a"]
        await feed.close()
        publisher.close()

    asyncio.run(listen())
