"""API keys: how one looks, what of it is kept, and comparing without telling how much was right. No queries."""

import hashlib
import hmac
import re
import secrets
import string
from dataclasses import dataclass, field

from models.errors import RequestError

SECRET_BYTES = 32  # 256 bits that nobody can guess: a plain hash of them is safe, and quick at each request
ID_CHARS = 8
_ID_ALPHABET = string.ascii_lowercase + string.digits
_ID = r"[a-z0-9]{8}"
_FORM = re.compile(rf"bm_({_ID})_[A-Za-z0-9_-]{{43}}")
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NO_DIGEST = bytes(hashlib.sha256().digest_size)


@dataclass(frozen=True, slots=True)
class PresentedKey:
    """What a caller sent, if it has the form of a key: the id it is looked up by and the digest it must match."""

    id: str
    digest: bytes = field(repr=False)


def new_key() -> str:
    """Draw a key: bm_<id>_<secret>. The id may be shown and logged, the whole is shown to its owner once."""
    id = "".join(secrets.choice(_ID_ALPHABET) for _ in range(ID_CHARS))
    return f"bm_{id}_{secrets.token_urlsafe(SECRET_BYTES)}"


def parse_key(text: str) -> PresentedKey | None:
    """Read what a caller sent; None where it cannot be a key, whatever is stored."""
    match = _FORM.fullmatch(text)
    return None if match is None else PresentedKey(match[1], hashlib.sha256(text.encode()).digest())


def is_key_id(text: str) -> bool:
    """Whether this can be the id of a key."""
    return re.fullmatch(_ID, text) is not None


def matches(presented: PresentedKey, digest: bytes | None) -> bool:
    """Whether the key is the stored one, in the same time for every wrong key; None stands for an unknown id."""
    same = hmac.compare_digest(presented.digest, _NO_DIGEST if digest is None else digest)
    return same and digest is not None


def check_tenant(name: str) -> str:
    """The name of a tenant: 1 to 64 letters, digits, dots, dashes and underscores. Raises RequestError."""
    if _TENANT.fullmatch(name) is None:
        allowed = "1 to 64 letters, digits, dots, dashes and underscores, a letter or digit first"
        raise RequestError("invalid_value", f"name must be {allowed}", param="name")
    return name
