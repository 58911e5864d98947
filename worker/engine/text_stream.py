"""Text of tokens as they come: half a character is held back until it is whole. Knows no tokenizer's files."""

import codecs
import copy
from collections.abc import Callable, Container
from collections.abc import Sequence as Items

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class ByteStream:
    """Incremental text of a tokenizer whose tokens are bytes.

    Once finished, the text is what all the bytes decode to; before, a beginning of it.
    """

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self.text = ""
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> None:
        """Add one token to the text."""
        self.text += self._decoder.decode(self._token_bytes(token_id))

    def finish(self) -> None:
        """Show half a character at the end as U+FFFD."""
        self.text += self._decoder.decode(b"", final=True)

    def fork(self) -> "ByteStream":
        """Make a stream that goes on from here by itself."""
        other = ByteStream(self._token_bytes)
        other.text = self.text
        other._decoder.setstate(self._decoder.getstate())
        return other


class WindowStream:
    """Incremental text of a tokenizer whose tokens decode differently in context (a leading space, bytes of one char).

    Decodes the newest piece of text already out together with what came since, and takes what the decode grew by.
    Once finished, the text is the decode of all tokens, but for one case: after a whole character, a stray byte of the
    same run of byte tokens makes the library's decode turn the whole run into U+FFFD; here the character stays.
    """

    def __init__(self, decode: Callable[[Items[int]], str], *, byte_ids: Container[int]) -> None:
        self.text = ""
        self._decode = decode
        self._byte_ids = byte_ids  # tokens that are one byte each: only they leave a character half done
        self._context: list[int] = []  # tokens whose text is out, kept for what follows
        self._known = ""  # what the context decodes to
        self._held: list[int] = []

    def push(self, token_id: int) -> None:
        """Add one token to the text."""
        self._held.append(token_id)
        text = self._decode(self._context + self._held)
        is_half = text.endswith(_REPLACEMENT) and any(held in self._byte_ids for held in self._held)
        if not is_half:
            self._take(text)

    def finish(self) -> None:
        """Show what is held back as it decodes."""
        if self._held:
            self._take(self._decode(self._context + self._held))

    def fork(self) -> "WindowStream":
        """Make a stream that goes on from here by itself."""
        other = copy.copy(self)
        other._held = [*self._held]  # the one part that is changed in place
        return other

    def _take(self, text: str) -> None:
        grown = text[len(self._known) :]
        self.text += grown
        # A piece that decodes to nothing, as a skipped token does, is no context: the next token would look like the
        # first of the text and lose its space.
        self._context = self._held if grown else self._context + self._held
        self._known = self._decode(self._context)
        self._held = []
