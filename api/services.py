"""What the routes work with, built once by the app factory."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from api.broker import Broker
from api.keyring import Keyring
from api.metrics import Metrics
from api.snapshot import Snapshot
from api.streams.feed import Feed
from api.submitting.committer import Committer
from api.submitting.known_models import KnownModels
from api.waiting import BatchWatch, Holders, Watch
from models.batch_store import BatchStore
from models.blobs import Blobs
from models.database import Database
from models.dead_letters import DeadLetters
from models.disk import DiskWatch, watch_of
from models.file_store import FileStore
from models.key_store import KeyStore
from models.overview import Load, Overview
from models.settings import Settings
from models.store import Store


@dataclass(frozen=True, slots=True)
class Services:
    """The service's parts; each is safe to share between requests."""

    settings: Settings
    database: Database
    store: Store
    committer: Committer
    models: KnownModels
    broker: Broker
    watch: Watch
    batch_watch: BatchWatch
    holders: Holders
    feed: Feed
    keys: KeyStore
    keyring: Keyring
    overview: Overview
    dead_letters: DeadLetters
    load: Snapshot[Load]
    metrics: Metrics
    batches: BatchStore
    files: FileStore
    blobs: Blobs
    disk: DiskWatch

    @classmethod
    def build(cls, settings: Settings, database: Database) -> "Services":
        """Wire the parts. Nothing connects yet. Raises ConfigurationError where BATCHMILL_BLOB_URL is none."""
        store, batches, keys = Store(database), BatchStore(database), KeyStore(database)
        overview = Overview(database)
        broker = Broker(settings.broker, store, ageing_seconds=settings.ageing_seconds)
        return cls(
            settings=settings,
            database=database,
            store=store,
            committer=Committer(store, on_commit=broker.announce),
            models=KnownModels(settings, store),
            broker=broker,
            watch=Watch(store),
            batch_watch=BatchWatch(batches),
            holders=Holders(),
            feed=Feed(settings.broker),
            keys=keys,
            keyring=Keyring(keys),
            overview=overview,
            dead_letters=DeadLetters(database),
            load=Snapshot(overview.load),
            metrics=Metrics(),
            batches=batches,
            files=FileStore(database),
            blobs=Blobs(settings.blobs),
            disk=watch_of(settings),
        )


async def _services(request: Request) -> Services:  # async: one that is not costs a thread at each request
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]
