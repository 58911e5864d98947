"""Results on their way from the device to the host, without the one waiting for the other."""

import torch
from torch import Tensor


class ReadBack:
    """Copies on the host of what tensors hold now. The device goes on; whoever reads waits for the copies alone."""

    def __init__(self, *tensors: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if tensors[0].device.type != "cuda":
            self._copies = [tensor.clone() for tensor in tensors]
            return
        pinned = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
        self._copies = [copy.copy_(tensor, non_blocking=True) for copy, tensor in zip(pinned, tensors, strict=True)]
        self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._event.record()

    def wait(self) -> list[Tensor]:
        """The copies, in the order of the tensors."""
        if self._event is not None:
            self._event.synchronize()
        return self._copies
