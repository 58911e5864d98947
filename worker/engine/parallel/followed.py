"""An engine's runner and cache where its model is split: what they do here, every other rank does too."""

import itertools
from functools import partial
from typing import Any

from torch import Tensor

from worker.engine.attention import Pass
from worker.engine.cache import Beginning, Cache
from worker.engine.loader import Model
from worker.engine.parallel.leader import Leader
from worker.engine.parallel.ranks import Ranks
from worker.engine.parallel.runner import RankRunner, pack

# What changes slots, beside `reserve` and `keep`; everything else asks rank 0's cache alone.
_FOLLOWED = ("open", "grow", "move", "swap", "share", "keep_first", "clear", "release")


class LeadingRunner(RankRunner):
    """Rank 0's runner. A call costs a message to each follower and an answer, beside the exchanges of a pass.

    Nobody follows in sampling and in scoring: these need whole hidden states, which rank 0 has.
    """

    def __init__(
        self,
        leader: Leader,
        ranks: Ranks,
        model: Model,
        *,
        budget_tokens: int,
        **sizes: Any,  # noqa: ANN401 (see Runner)
    ) -> None:
        if model.device.type == "cpu":  # all ranks take from one memory
            budget_tokens //= ranks.share.num_ranks
        sizes["budget_tokens"] = budget_tokens
        leader.call("build", partial(super().__init__, model, ranks, **sizes), sizes=sizes)
        self._leader = leader
        self.cache: Any = FollowedCache(leader, self.cache)
        self.fast_paths = self.fast_paths | {"ranks": f"{ranks.share.num_ranks} over {ranks.name}"}

    def _forward(self, tokens: Pass) -> Tensor:
        message, values = pack(tokens)
        return self._leader.call("forward", partial(self._tell_and_run, tokens, values), tokens=message)

    def _tell_and_run(self, tokens: Pass, values: Tensor) -> Tensor:
        self._ranks.tell(values)
        return super()._forward(tokens)


class FollowedCache:
    """See `Cache`. Rank 0's decides; what changes a slot of it changes that of the others once it has been done.

    In this order a beginning that gives way to a row here has done so there when the row comes.
    """

    def __init__(self, leader: Leader, cache: Cache) -> None:
        self._leader, self._cache = leader, cache
        self._numbers = itertools.count()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (any attribute of the cache)
        return partial(self._follow, name) if name in _FOLLOWED else getattr(self._cache, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
            return
        setattr(self._cache, name, value)
        if name == "budget_tokens":  # `reclaim` is rank 0's own: it drops what is kept on all
            self._leader.tell("limit", num_tokens=value)

    def reserve(self, num_live: int, num_rows: int, max_tokens: int) -> None:
        """Make room on every rank. Where another rank has lost its rows in that, or may have, all lose theirs."""
        self._cache.reserve(num_live, num_rows, max_tokens)
        try:
            self._tell("reserve", num_live, num_rows, max_tokens)
        except MemoryError:
            self._follow("release")
            raise

    def keep(self, slot: int, num_tokens: int) -> Beginning:
        """Keep a slot's first positions on every rank."""
        beginning, number = self._cache.keep(slot, num_tokens), next(self._numbers)
        self._leader.tell("keep", number=number, slot=slot, num_tokens=num_tokens)
        return FollowedBeginning(self._leader, beginning, number)

    def _follow(self, method: str, *arguments: Any, **options: int) -> None:  # noqa: ANN401
        getattr(self._cache, method)(*arguments, **options)
        self._tell(method, *arguments, **options)

    def _tell(self, method: str, *arguments: Any, **options: int) -> None:  # noqa: ANN401
        self._leader.tell("change", method=method, arguments=arguments, options=options)


class FollowedBeginning:
    """See `Beginning`. The others know theirs by its number."""

    def __init__(self, leader: Leader, beginning: Beginning, number: int) -> None:
        self._leader, self._beginning, self._number = leader, beginning, number

    def fill(self, slot: int, num_tokens: int) -> None:
        """Put the first positions into a slot on every rank."""
        self._beginning.fill(slot, num_tokens)
        self._leader.tell("fill", number=self._number, slot=slot, num_tokens=num_tokens)

    def drop(self) -> None:
        """Give the memory back on every rank."""
        self._beginning.drop()
        self._leader.tell("drop", number=self._number)
