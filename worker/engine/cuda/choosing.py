"""The sampler's kernels as a way to choose, see `Choose`."""

from torch import Tensor

from worker.engine.cuda.sampling import sample_rows
from worker.engine.ops import Ops
from worker.engine.sampling import Features, SamplingState


def choose_by_kernels(
    scores: Tensor, changed: Tensor, state: SamplingState, features: Features, ops: Ops
) -> tuple[Tensor, Tensor]:
    """Choose from raw scores [B, V], changed by penalties and bans -> ids [B], logprobs [B] under the raw ones.

    Asks the host nothing. What no row asks for costs next to nothing here, so that `features` are not looked at.
    """
    del features, ops
    return sample_rows(
        scores,
        changed,
        temperature=state.temperature,
        top_k=state.top_k,
        top_p=state.top_p,
        min_p=state.min_p,
        seed=state.seed,
        generated=state.generated,
    )
