"""Other names for models, which the operator configured: resolved where a request is accepted, unknown ever after."""

from collections.abc import Mapping


def resolve_model(name: str, aliases: Mapping[str, str]) -> str:
    """The model that a name means: an alias's model, else the name itself. An alias of an alias is not looked up."""
    return aliases.get(name, name)
