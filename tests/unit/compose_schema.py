"""The parts of the Compose specification that docker-compose.yml uses, as JSON Schema. Any other key is refused."""

from typing import Any


def closed(required: tuple[str, ...] = (), **properties: object) -> dict[str, Any]:
    """An object with these keys and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def named(value: object) -> dict[str, Any]:
    """An object whose keys are free names, its values alike."""
    return {"type": "object", "patternProperties": {"^[a-zA-Z0-9._-]+$": value}, "additionalProperties": False}


TEXT = {"type": "string", "minLength": 1}
TEXTS = {"type": "array", "items": TEXT, "minItems": 1, "uniqueItems": True}
WORDS = {"type": "array", "items": {"type": "string"}, "minItems": 1}  # a command may repeat a word
COUNT = {"type": "integer", "minimum": 1}
DURATION = {"type": "string", "pattern": r"^([0-9]+(us|ms|s|m|h))+$"}
SIZE = {"type": "string", "pattern": r"^[0-9]+(b|kb|mb|gb)$"}
VARIABLES = named({"type": "string"})
PORT = {"type": "string", "pattern": r"^([0-9.]+:)?(\$\{[^}]+\}|[0-9]+):[0-9]+$"}

BUILD = closed(("context", "dockerfile", "target"), context=TEXT, dockerfile=TEXT, target=TEXT, args=VARIABLES)
CONDITION = {"enum": ["service_started", "service_healthy", "service_completed_successfully"]}
HEALTHCHECK = closed(
    ("test",),
    test={"type": "array", "items": TEXT, "minItems": 2, "prefixItems": [{"enum": ["CMD", "CMD-SHELL"]}]},
    interval=DURATION,
    timeout=DURATION,
    start_period=DURATION,
    retries=COUNT,
)
DEVICE = closed(("capabilities",), driver=TEXT, count=COUNT, capabilities=TEXTS)
DEPLOY = closed(resources=closed(reservations=closed(devices={"type": "array", "items": DEVICE})))

SERVICE = closed(
    ("image",),
    image=TEXT,
    build=BUILD,
    command=WORDS,
    user={"type": "string", "pattern": "^[0-9]+:[0-9]+$"},
    environment=VARIABLES,
    profiles=TEXTS,
    ports={"type": "array", "items": PORT},
    volumes=TEXTS,
    tmpfs=TEXTS,
    networks=TEXTS,
    depends_on=named(closed(("condition",), condition=CONDITION)),
    healthcheck=HEALTHCHECK,
    deploy=DEPLOY,
    init={"type": "boolean"},
    read_only={"type": "boolean"},
    restart={"enum": ["no", "always", "on-failure", "unless-stopped"]},
    cap_drop=TEXTS,
    security_opt=TEXTS,
    pids_limit=COUNT,
    shm_size=SIZE,
    stop_grace_period=DURATION,
)
COMPOSE = closed(
    ("services",),
    name={"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
    services=named(SERVICE),
    networks=named(closed(internal={"type": "boolean"})),
    volumes=named(closed()),
) | {"patternProperties": {"^x-": {}}}
