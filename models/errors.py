"""The errors this project raises on purpose. A class names the code and HTTP status it is answered with."""

from typing import ClassVar


class BatchmillError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__)

    @property
    def message(self) -> str:
        """The sentence shown to the user; it never echoes a prompt or a key."""
        return str(self.args[0])


class RequestError(BatchmillError):
    """The request is not valid. The client's fault: sending it again unchanged does not help."""

    status = 400

    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.error_code = code
        self.param = param


class NotFound(BatchmillError):
    """There is nothing with this id."""

    code = "not_found"
    status = 404


class ResultExpired(BatchmillError):
    """The result was kept as long as results are kept here, and then deleted."""

    code = "result_expired"
    status = 410


class InputExpired(BatchmillError):
    """The request's input was kept as long as inputs are kept here, and then deleted."""

    code = "input_expired"
    status = 410


class DatabaseUnavailable(BatchmillError):
    """The database does not answer. Retrying helps once it is back."""

    code = "database_unavailable"
    status = 503


class DatabaseBusy(BatchmillError):
    """The database is locked by another writer. Retrying helps."""

    code = "database_busy"
    status = 503


class BrokerUnavailable(BatchmillError):
    """Redis does not answer. Accepted jobs are safe in the database and start once it is back."""

    code = "broker_unavailable"
    status = 503


class ConfigurationError(BatchmillError):
    """A setting, a file or a service is not as it must be; the message says what to do."""

    code = "configuration_error"


class TransactionAborted(DatabaseBusy):
    """The database ended this transaction in favour of another one. Retrying helps."""


class Overloaded(BatchmillError):
    """Every database connection is in use. Retrying helps."""

    code = "overloaded"
    status = 503


class StorageFull(BatchmillError):
    """The database's disk is full. Retrying helps once there is room."""

    code = "insufficient_storage"
    status = 507


class IdempotencyKeyReused(BatchmillError):
    """This Idempotency-Key was used with another request."""

    code = "idempotency_key_reused"
    status = 422


class BatchClosed(BatchmillError):
    """The batch takes no more lines: its input was read to the end, or it was cancelled."""

    code = "batch_closed"
    status = 409


class IntakeLost(BatchmillError):
    """Another worker reads the input of this batch by now."""

    code = "intake_lost"
    status = 409


class BatchNotFinal(BatchmillError):
    """The batch is not finished: cancel it, or wait for its end."""

    code = "batch_not_final"
    status = 409


class JobNotFinal(BatchmillError):
    """The job is not finished: cancel it, or wait for its end."""

    code = "job_not_final"
    status = 409


class JobNotQueued(BatchmillError):
    """The job no longer waits in the queue: its priority and its deadline stay as they are."""

    code = "job_not_queued"
    status = 409


class JobOfBatch(BatchmillError):
    """The job is a row of a batch and is deleted with it."""

    code = "job_of_batch"
    status = 409


class FileInUse(BatchmillError):
    """The file is the input of a batch that is not final, or the output of one."""

    code = "file_in_use"
    status = 409


class BlobsUnavailable(BatchmillError):
    """The storage of uploaded files does not answer. Retrying helps once it is back."""

    code = "storage_unavailable"
    status = 503
