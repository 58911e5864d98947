"""What ranks exchange, and how a pass is written down. The ranks are threads here; they meet over gloo all the same."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from worker.engine.attention import Pass
from worker.engine.parallel import ranks
from worker.engine.parallel.ranks import RankLost, Ranks, device_of, open_store, pass_shapes
from worker.engine.parallel.runner import count_values, pack, unpack
from worker.engine.parallel.sharding import Share

CPU = torch.device("cpu")


def run_together(num_ranks: int, do: Callable[[Ranks], Any]) -> list[Any]:
    """What each rank of a new group makes of it."""
    leading = open_store(0, Share(0, num_ranks))

    def run(rank: int) -> Any:  # noqa: ANN401
        share = Share(rank, num_ranks)
        return do(Ranks(leading if rank == 0 else open_store(leading.port, share), share, CPU))

    with ThreadPoolExecutor(num_ranks) as pool:
        return list(pool.map(run, range(num_ranks)))


def test_columns_are_joined_in_the_order_of_ranks() -> None:
    found = run_together(3, lambda group: group.join(torch.full((2, 2), float(group.share.rank))))

    assert all(torch.equal(x, torch.tensor([[0.0, 0, 1, 1, 2, 2]] * 2)) for x in found)


def listening() -> set[tuple[str, int]]:
    """Addresses where this process takes connections."""
    found = psutil.Process().net_connections()
    return {(one.laddr.ip, one.laddr.port) for one in found if one.status == psutil.CONN_LISTEN}


def test_ranks_listen_to_nobody_but_this_machine() -> None:
    before = listening()

    found = run_together(2, lambda group: (group.join(torch.ones(1, 1)), listening() - before)[1])

    assert found[0]
    assert {ip for ip, _ in found[0]} == {"127.0.0.1"}


def test_columns_that_do_not_lie_together_are_joined() -> None:
    found = run_together(2, lambda group: group.join(torch.arange(6.0).view(3, 2).T))

    assert torch.equal(found[0], torch.arange(6.0).view(3, 2).T.repeat(1, 2))


def test_all_hear_what_rank_0_tells() -> None:
    values = torch.tensor([3, -1, 1 << 40])

    def do(group: Ranks) -> Tensor:
        if group.share.rank:
            return group.hear(3)
        group.tell(values)
        return values

    assert all(torch.equal(heard, values) for heard in run_together(2, do))


def test_failed_rank_keeps_others_from_waiting() -> None:
    shapes = pass_shapes((4, 2), num_layers=2, num_tokens=3, num_kept=1)

    def do(group: Ranks) -> int:
        num_done = 1 if group.share.rank else len(shapes)
        for shape in shapes[:num_done]:
            group.join(torch.ones(shape))
        group.join_rest(shapes, torch.float32)
        return group.num_joins

    assert shapes == [(3, 4), (3, 2), (1, 4), (1, 2)]
    assert run_together(2, do) == [4, 4]


def test_rank_that_does_not_come_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "EXCHANGE_SECONDS", 0.5)

    def do(group: Ranks) -> str:
        if group.share.rank == 0:
            with pytest.raises(RankLost) as raised:
                group.join(torch.ones(1, 1))
            return str(raised.value)
        return ""

    assert run_together(2, do)[0].startswith("a rank of the model is gone")


def test_ranks_that_do_not_find_each_other_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "EXCHANGE_SECONDS", 0.5)

    with pytest.raises(RankLost, match="did not find each other"):
        Ranks(open_store(0, Share(0, 2)), Share(0, 2), CPU)


@pytest.mark.parametrize("keep", [None, torch.tensor([2])])
def test_pass_is_put_together_as_it_was(keep: Tensor | None) -> None:
    tokens = Pass(torch.arange(16), torch.arange(16) + 3, torch.tensor([1, 1, 1]), [3], [6], span_slots=(1,), keep=keep)

    message, values = pack(tokens)
    found = unpack(message, values)

    assert len(values) == count_values(message) == (35 if keep is None else 36)
    assert torch.equal(found.tokens, tokens.tokens)
    assert torch.equal(found.positions, tokens.positions)
    assert torch.equal(found.slots, tokens.slots)
    assert (found.counts, found.ends, list(found.span_slots)) == ([3], [6], [1])
    assert (found.keep, keep) == (None, None) or torch.equal(found.keep, keep)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "rank", "device"),
    [("cpu", 1, "cpu"), ("cuda", 0, "cuda:0"), ("cuda", 1, "cuda:1"), ("cuda:2", 1, "cuda:3")],
)
def test_ranks_take_the_gpus_from_the_first_on(first: str, rank: int, device: str) -> None:
    assert device_of(first, Share(rank, 2)) == device
