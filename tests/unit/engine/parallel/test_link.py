"""Messages over a pair of sockets, whole or not at all."""

import socket
import threading
from collections.abc import Iterator

import pytest

from worker.engine.parallel.link import Link, Message
from worker.engine.parallel.ranks import RankLost


@pytest.fixture
def ends() -> Iterator[tuple[Link, Link]]:
    links = [Link(end) for end in socket.socketpair()]
    yield links[0], links[1]
    for link in links:
        link.close()


def test_messages_arrive_in_order_and_whole(ends: tuple[Link, Link]) -> None:
    messages: list[Message] = [{}, {"call": "forward", "counts": list(range(300_000))}, {"text": "\N{GRINNING FACE}"}]

    def send_all() -> None:
        for message in messages:
            ends[0].send(message)

    sender = threading.Thread(target=send_all)
    sender.start()

    assert [ends[1].receive(10) for _ in messages] == messages
    sender.join()


def test_other_end_closed_is_a_lost_rank(ends: tuple[Link, Link]) -> None:
    ends[1].close()

    with pytest.raises(RankLost, match="has ended"):
        ends[0].receive()
    with pytest.raises(RankLost, match="has ended"):
        ends[0].send({})


def test_half_a_message_is_a_lost_rank() -> None:
    here, there = socket.socketpair()
    there.sendall((100).to_bytes(4, "big") + b'{"call"')
    there.close()
    link = Link(here)

    with pytest.raises(RankLost, match="has ended"):
        link.receive()
    link.close()


def test_silence_is_a_lost_rank(ends: tuple[Link, Link]) -> None:
    with pytest.raises(RankLost, match=r"not answered for 0\.05 s"):
        ends[0].receive(0.05)


def test_link_closed_here_is_a_lost_rank(ends: tuple[Link, Link]) -> None:
    ends[0].close()

    with pytest.raises(RankLost):
        ends[0].receive(1)
