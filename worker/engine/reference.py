"""The decode algorithm in its plainest form: read this first, then `engine.py`, which must give the same answers.

All prompts lie in one padded tensor; at each position every row is computed again from its beginning. A mask says where
the prompts are: a sampled token never overwrites one. Each row stops for itself; the loop ends when all have.
Stop strings, beams and prompt scores are the engine's alone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.engine.rows import features_of, pad_ids
from worker.engine.sampling import SamplingState, sample
from worker.engine.sequence import Sequence
from worker.engine.spec import Spec
from worker.engine.transformer import forward, logits
from worker.engine.weights import Weights


def generate(weights: Weights, spec: Spec, sequences: list[Sequence]) -> list[tuple[list[int], list[float]]]:
    """Give each sequence's generated tokens, its stop token cut, and their logprobs."""
    prompts = [sequence.prompt_token_ids for sequence in sequences]
    lengths = torch.tensor([len(prompt) for prompt in prompts])  # [B]
    limits = lengths + torch.tensor([sequence.max_new_tokens for sequence in sequences])
    context = min(sequence.context_length or spec.context_length for sequence in sequences)
    width = int(limits.max())
    tokens = torch.tensor([pad_ids(prompt, width) for prompt in prompts])  # [B, T], -1 where nothing is yet
    is_prompt = tokens >= 0
    logprobs = torch.zeros(tokens.shape)
    state = _sampling_state(sequences)
    ends = limits.clone()
    eos_reached = torch.zeros(len(prompts), dtype=torch.bool)

    for position in range(int(lengths.min()), width):
        # Rows longer than the context see its newest tokens alone.
        scores = _next_scores(weights, spec, tokens[:, max(position - context, 0) : position].clamp(min=0))
        changed = _change_scores(scores, tokens[:, :position], is_prompt[:, :position], sequences)
        state.generated.copy_(position - lengths)
        chosen, _ = sample(changed, state, features_of(sequences))
        writes = ~is_prompt[:, position] & ~eos_reached & (position < limits)
        tokens[:, position] = chosen.where(writes, tokens[:, position])
        logprobs[:, position] = scores.log_softmax(-1).gather(1, chosen[:, None])[:, 0].where(writes, 0.0)
        stops = writes & (chosen[:, None] == state.stop_ids).any(-1)
        ends = torch.where(stops, position, ends)  # the stop token itself is cut
        eos_reached |= stops | (position + 1 >= limits)
        if bool(eos_reached.all()):
            break

    cuts = zip(lengths.tolist(), ends.tolist(), strict=True)
    return [(tokens[row, a:b].tolist(), logprobs[row, a:b].tolist()) for row, (a, b) in enumerate(cuts)]


def _next_scores(weights: Weights, spec: Spec, tokens: Tensor) -> Tensor:
    """Compute every row from its first token: tokens [B, S] -> scores [B, V] after the last one."""
    num_rows, num_tokens = tokens.shape
    positions = torch.arange(num_tokens).repeat(num_rows)

    def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.view(num_rows, num_tokens, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return out.transpose(1, 2).reshape(num_rows * num_tokens, -1)

    hidden = forward(weights, spec, tokens.flatten(), positions, attend)
    return logits(weights, spec, hidden.view(num_rows, num_tokens, -1)[:, -1])


def _change_scores(scores: Tensor, tokens: Tensor, is_prompt: Tensor, sequences: list[Sequence]) -> Tensor:
    """Apply penalties and logit_bias to scores [B, V], given all tokens so far [B, S]."""
    counts = torch.zeros(2, *scores.shape)  # how often the row's answer, and its prompt, hold each token of V
    for kind, mask in enumerate((~is_prompt & (tokens >= 0), is_prompt)):
        counts[kind].scatter_add_(1, tokens.clamp(min=0), mask.float())
    in_answer, seen = counts[0], counts.sum(0) > 0
    params = [sequence.params for sequence in sequences]
    repetition = torch.tensor([[float(param.repetition_penalty)] for param in params])
    frequency = torch.tensor([[float(param.frequency_penalty)] for param in params])
    presence = torch.tensor([[float(param.presence_penalty)] for param in params])
    repeated = (scores / repetition).where(scores > 0, scores * repetition).where(seen, scores)
    changed = repeated - (frequency * in_answer + presence * (in_answer > 0))
    for row, param in enumerate(params):
        for token_id, bias in param.logit_bias:
            changed[row, token_id] += bias
    return changed


def _sampling_state(sequences: list[Sequence]) -> SamplingState:
    params = [sequence.params for sequence in sequences]
    width = max(1, *(len(sequence.stop_token_ids) for sequence in sequences))
    return SamplingState(
        temperature=torch.tensor([float(param.temperature) for param in params]),
        top_k=torch.tensor([max(param.top_k, 0) for param in params]),
        top_p=torch.tensor([float(param.top_p) for param in params]),
        min_p=torch.tensor([float(param.min_p) for param in params]),
        seed=torch.tensor([sequence.seed for sequence in sequences]),
        generated=torch.zeros(len(params), dtype=torch.int64),
        min_tokens=torch.tensor([param.min_tokens for param in params]),
        stop_ids=torch.tensor([pad_ids(sequence.stop_token_ids, width) for sequence in sequences]),
    )
