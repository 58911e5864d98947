"""The tests of the store's main paths once more, on a PostgreSQL that is partitioned by week."""

import pytest

from tests.integration.store.test_claims import *  # noqa: F403
from tests.integration.store.test_counts import *  # noqa: F403
from tests.integration.store.test_deleting import *  # noqa: F403
from tests.integration.store.test_listing import *  # noqa: F403
from tests.integration.store.test_submit import *  # noqa: F403

pytestmark = pytest.mark.slow


@pytest.fixture
def database_url(partitioned_url: str) -> str:
    """What these tests run on here."""
    return partitioned_url
