"""Column types and SQL expressions that read the same on PostgreSQL and SQLite."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    Double,
    Float,
    Text,
    bindparam,
    func,
    select,
)
from sqlalchemy import any_ as sql_any
from sqlalchemy.dialects.postgresql import ARRAY, TIMESTAMP
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine


class Timestamp(TypeDecorator[datetime]):
    """A moment, UTC and aware: timestamptz on PostgreSQL, seconds since 1970 on SQLite."""

    impl = Double
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The type of the column in this dialect."""
        return TIMESTAMP(timezone=True) if dialect.name == "postgresql" else dialect.type_descriptor(Float())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:  # noqa: ANN401 - the driver's
        """Send an aware datetime."""
        return value if value is None or dialect.name == "postgresql" else value.timestamp()

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ANN401 - the driver's
        """Read an aware datetime in UTC."""
        if value is None:
            return None
        return value.astimezone(UTC) if isinstance(value, datetime) else datetime.fromtimestamp(value, UTC)


class now(FunctionElement[datetime]):
    """The database's clock: no lease, deadline or age is ever judged by a worker's own."""

    type = Timestamp()
    inherit_cache = True


class from_now(FunctionElement[datetime]):
    """The database's clock plus a number of seconds."""

    type = Timestamp()
    inherit_cache = True


@compiles(now)
def _now(element: now, compiler: SQLCompiler, **_: Any) -> str:  # noqa: ANN401
    return "now()"


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: SQLCompiler, **_: Any) -> str:  # noqa: ANN401
    # It ticks in milliseconds. Without the rounding a float's noise follows, which no datetime can hold: a page of a
    # list that goes on after such a time would miss an entry or show one twice.
    return "round((julianday('now') - 2440587.5) * 86400.0, 3)"


@compiles(from_now)
def _from_now(element: from_now, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401
    return f"(now() + make_interval(secs => {compiler.process(element.clauses, **kw)}))"


@compiles(from_now, "sqlite")
def _from_now_sqlite(element: from_now, compiler: SQLCompiler, **kw: Any) -> str:  # noqa: ANN401
    return f"round((julianday('now') - 2440587.5) * 86400.0 + {compiler.process(element.clauses, **kw)}, 3)"


def is_one_of(
    connection: Connection, column: ColumnElement[Any], values: Sequence[UUID] | Sequence[str]
) -> ColumnElement[bool]:
    """`column` is among `values`, as one bound parameter: the same statement for any number of them."""
    if connection.dialect.name == "postgresql":
        return column == sql_any(bindparam(None, list(values), ARRAY(column.type)))
    texts = [value.hex if isinstance(value, UUID) else value for value in values]
    return column.in_(select(func.json_each(orjson.dumps(texts).decode()).table_valued("value").c.value))


def constant(value: str) -> ColumnElement[str]:
    """A word of ours written into the statement: against a bound parameter a partial index may go unused."""
    return bindparam(None, value, Text, literal_execute=True)
