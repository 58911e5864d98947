"""What the routes work with, built once by the app factory."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from api.broker import Broker
from api.waiting import Watch
from models.database import Database
from models.settings import Settings
from models.store import Store


@dataclass(frozen=True, slots=True)
class Services:
    """The service's parts; each is safe to share between requests."""

    settings: Settings
    database: Database
    store: Store
    broker: Broker
    watch: Watch

    @classmethod
    def build(cls, settings: Settings, database: Database) -> "Services":
        """Wire the parts. Nothing connects yet."""
        store = Store(database)
        return cls(settings, database, store, Broker(settings.broker, store), Watch(store))


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]
