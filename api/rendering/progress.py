"""How much of a job's text a listener has: what of a piece is new, whoever repeats it.

The feed may repeat, lose or delay; what it says is still a beginning of what will be committed. So text is taken by its
place alone, and what is missing at the end comes from the committed result.
"""

from collections import defaultdict
from collections.abc import Mapping

from models.feed import Delta
from models.records import CompletionRecord, JobRecord

Item = JobRecord | Delta  # what a listener is told: a state of the job, or new text


class Progress:
    """How much of each choice is known, and what of a piece is new."""

    def __init__(self, known_chars: Mapping[int, int] | None = None, *, with_ids: bool = False) -> None:
        """Begin with the first characters of some choices known: a listener had them before it lost its connection."""
        self._with_ids = with_ids
        self._resumed = dict(known_chars or {})
        self._chars = defaultdict(int, self._resumed)
        self._tokens: defaultdict[int, int] = defaultdict(int)
        self._ids: defaultdict[int, int] = defaultdict(int)

    def take(self, piece: Delta, *, num_echoed: int = 0) -> Delta | None:
        """What is new in a piece; None when nothing is, or when something before it is missing.

        `num_echoed`: tokens of the prompt among its tokens, which are not among its ids.
        """
        choice, ids_offset = piece.choice, piece.token_offset + num_echoed
        chars = self._chars[choice]
        if piece.offset > chars:
            return None
        text = piece.text[chars - piece.offset :]
        tokens = piece.tokens[max(0, self._tokens[choice] - piece.token_offset) :]
        tokens = [entry for entry in tokens if entry["offset"] >= self._resumed.get(choice, 0)]
        token_ids = piece.token_ids[max(0, self._ids[choice] - ids_offset) :]
        self._chars[choice] = max(chars, piece.offset + len(piece.text))
        self._tokens[choice] = max(self._tokens[choice], piece.token_offset + len(piece.tokens))
        self._ids[choice] = max(self._ids[choice], ids_offset + len(piece.token_ids))
        if not (text or tokens or token_ids):
            return None
        return Delta(choice, chars, text, piece.token_offset, tokens, token_ids)

    def rest(self, completion: CompletionRecord) -> Delta | None:
        """What is new in a committed choice."""
        tokens = (completion.details or {}).get("tokens", ())
        num_echoed = max(0, len(tokens) - len(completion.token_ids))
        token_ids = completion.token_ids if self._with_ids else ()
        whole = Delta(completion.choice_index, 0, completion.text, 0, tokens, token_ids)
        return self.take(whole, num_echoed=num_echoed)
