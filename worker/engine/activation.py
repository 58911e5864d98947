"""What bends the MLP: SwiGLU and GELU, so computed that a row's bits do not depend on its place in the batch.

torch works through elements by whole vectors and takes what remains one by one, with another exp or tanh that differs
in the last bit; and it cuts the elements among threads wherever their number says, so that such remains lie anywhere.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

_GRAIN = 32768  # torch gives a thread at least so many elements (at::internal::GRAIN_SIZE)
_WIDTH_MULTIPLE = 4  # with rows in multiples of 16, whole vector loops of 64: AVX-512 takes 64 bfloat16 at a time


def swiglu(gate_up: Tensor) -> Tensor:
    """Compute silu(gate) * up of gate_up [N, 2 I], gate first -> [N, I]."""
    gate, up = gate_up.chunk(2, dim=-1)
    if gate.device.type == "cpu" and torch.is_inference_mode_enabled():
        return _silu_of_copy(gate) * up
    return F.silu(gate) * up


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation, as GPT-2 has it; in float32, each element for itself.

    Not F.gelu, whose cuts among threads follow no rule one could keep to. tanh alone takes remains by vectors too.
    """
    wide = x.float()
    bent = torch.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide * wide * wide))
    return (0.5 * wide * (1 + bent)).to(x.dtype)


def _silu_of_copy(gate: Tensor) -> Tensor:
    width = gate.shape[-1]
    copy = F.pad(gate, (0, -width % _WIDTH_MULTIPLE))
    flat = copy.view(-1)
    for start, end in _even_pieces(flat.numel(), torch.get_num_threads()):
        F.silu(flat[start:end], inplace=True)
    return copy[:, :width]


def _even_pieces(count: int, num_threads: int) -> Iterator[tuple[int, int]]:
    """Cut [0, count) into pieces of at most a grain a thread, which torch cuts at whole grains, and one of less."""
    whole = count // _GRAIN * _GRAIN
    for start in range(0, whole, _GRAIN * num_threads):
        yield start, min(start + _GRAIN * num_threads, whole)
    if whole < count:
        yield whole, count
