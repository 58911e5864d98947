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

    def take(self, piece: Delta) -> Delta | None:
        """What is new in a piece; None when nothing is, or when something before it is missing."""
        chars = self._chars[piece.choice]
        if piece.offset > chars:
            return None
        text = piece.text[chars - piece.offset :]
        tokens = piece.tokens[max(0, self._tokens[piece.choice] - piece.token_offset) :]
        token_ids = piece.token_ids[max(0, self._ids[piece.choice] - piece.token_offset) :]
        tokens = [entry for entry in tokens if entry["offset"] >= self._resumed.get(piece.choice, 0)]
        self._note(piece)
        if not (text or tokens or token_ids):
            return None
        return Delta(piece.choice, chars, text, piece.token_offset, tokens, token_ids)

    def rest(self, completion: CompletionRecord) -> Delta | None:
        """What is new in a committed choice."""
        tokens = (completion.details or {}).get("tokens", ())
        token_ids = completion.token_ids if self._with_ids else ()
        return self.take(Delta(completion.choice_index, 0, completion.text, 0, tokens, token_ids))

    def _note(self, piece: Delta) -> None:
        for known, end in (
            (self._chars, piece.offset + len(piece.text)),
            (self._tokens, piece.token_offset + len(piece.tokens)),
            (self._ids, piece.token_offset + len(piece.token_ids)),
        ):
            known[piece.choice] = max(known[piece.choice], end)
