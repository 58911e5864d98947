"""Which databases a test runs on that starts many processes."""

import pytest

# Where SQL is not what the test is about: PostgreSQL each time, SQLite among the slow tests.
ONE_IS_ENOUGH = pytest.mark.parametrize(
    "database_url", ["postgresql", pytest.param("sqlite", marks=pytest.mark.slow)], indirect=True
)
