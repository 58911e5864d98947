"""The processes that hold one model, as one of them sees them, and what they exchange while they compute.

Each rank has some columns of every product, and all need all columns before the next product: after attention, after
the output projection, after the activation and after the MLP. These are 4 gathers a layer, each of [N, w / R] from each
of R ranks, where splitting by inputs takes 2 all-reduces of [N, C]. An all-reduce adds up the ranks' partial sums in an
order of its own: the answers and the fingerprint of a model would change with the number of ranks.
"""

import socket
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from worker.engine.faults import is_allocation_failure
from worker.engine.parallel.sharding import Share
from worker.engine.types import EngineError

distributed: Any = torch.distributed  # its stubs lack the stores and the groups' options

HOST = "127.0.0.1"
# A rank that is frozen looks like one that computes: it is given up after so long in one exchange. One that has died
# is noticed at once.
EXCHANGE_SECONDS = 60.0


class RankLost(EngineError):
    """Another rank has died, or does not answer. The model has to be loaded again."""


def open_store(port: int, share: Share) -> Any:  # noqa: ANN401
    """Open the place where ranks find each other: at `port`, or rank 0 with 0 at any free one."""
    timeout = timedelta(seconds=EXCHANGE_SECONDS)
    if share.rank:
        return distributed.TCPStore(HOST, port, share.num_ranks, timeout=timeout)
    # By itself it would listen at every address of the machine.
    listener = socket.create_server((HOST, port))
    return distributed.TCPStore(
        HOST,
        listener.getsockname()[1],
        share.num_ranks,
        is_master=True,
        timeout=timeout,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )


def device_of(first: str, share: Share) -> str:
    """Name the device of a rank: the first one's where that is a CPU, else one of the GPUs from there on."""
    device = torch.device(first)
    return first if device.type == "cpu" else f"{device.type}:{(device.index or 0) + share.rank}"


class Ranks:
    """A process group of one model: over gloo on CPUs, over NCCL on GPUs. All ranks must make the same exchanges.

    Made directly and not as torch's one global group: a process may hold more than one model. Raises RankLost where
    the others do not come.
    """

    def __init__(self, store: Any, share: Share, device: torch.device) -> None:  # noqa: ANN401
        self.share = share
        self.name = "nccl" if device.type == "cuda" else "gloo"
        self.num_joins = 0  # since the pass began
        self._device = device
        try:
            self._backend = _make_backend(store, share, device)
        except RuntimeError as error:
            raise RankLost(f"the {share.num_ranks} ranks of the model did not find each other: {error}") from error

    def join(self, x: Tensor) -> Tensor:
        """Put the ranks' columns side by side, in their order: x [N, w] of each -> [N, R * w]."""
        x = x.contiguous()  # as NCCL wants it
        pieces = [torch.empty_like(x) for _ in range(self.share.num_ranks)]
        self.num_joins += 1
        self._wait(lambda: self._backend.allgather([pieces], [x]))
        return torch.cat(pieces, dim=-1)

    def join_rest(self, shapes: list[tuple[int, int]], dtype: torch.dtype) -> None:
        """Take part, with nothing of use, in what is left of a pass that failed here: nobody is to wait for it.

        `shapes` are those of all x of the pass. Raises RankLost where even that fails.
        """
        try:
            for shape in shapes[self.num_joins :]:
                self.join(torch.zeros(shape, dtype=dtype, device=self._device))
        except RankLost:
            raise
        except Exception as error:
            raise RankLost(f"rank {self.share.rank} of the model cannot go on: {error}") from error

    def tell(self, values: Tensor) -> None:
        """Give values [N] int64 to all others. For rank 0."""
        self._wait(lambda: self._backend.broadcast(values, 0))

    def hear(self, num_values: int) -> Tensor:
        """Take the values [N] int64 that rank 0 tells."""
        values = torch.empty(num_values, dtype=torch.int64, device=self._device)
        self._wait(lambda: self._backend.broadcast(values, 0))
        return values

    def _wait(self, begin: Any) -> None:  # noqa: ANN401 (torch's Work has no public type)
        try:
            begin().wait()
        except RuntimeError as error:
            if is_allocation_failure(error):
                raise
            raise RankLost(f"a rank of the model is gone: {str(error).partition('. ')[0]}") from error


def pass_shapes(widths: Iterable[int], num_layers: int, num_tokens: int, num_kept: int) -> list[tuple[int, int]]:
    """List the shapes of all x that a pass joins; its last layer runs for the kept tokens alone."""
    rows = [num_tokens] * (num_layers - 1) + [num_kept]
    widths = tuple(widths)
    return [(num, width) for num in rows for width in widths]


def _make_backend(store: Any, share: Share, device: torch.device) -> Any:  # noqa: ANN401
    timeout = timedelta(seconds=EXCHANGE_SECONDS)
    if device.type == "cuda":
        nccl = distributed.ProcessGroupNCCL
        options = nccl.Options()
        options._timeout = timeout
        return nccl(store, share.rank, share.num_ranks, options)
    gloo = distributed.ProcessGroupGloo
    options = gloo._Options()
    # Else it listens at the address of the machine's name, for anybody in the network.
    options._devices = [gloo.create_device(hostname=HOST)]
    options._timeout = timeout
    return gloo(store, share.rank, share.num_ranks, options)
