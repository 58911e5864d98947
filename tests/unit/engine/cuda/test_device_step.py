"""The shapes of captured steps."""

import pytest

from worker.engine.cuda.device_step import bucket_of, longest_of


@pytest.mark.parametrize(
    ("num_rows", "bucket"), [(1, 1), (2, 2), (3, 4), (9, 16), (16, 16), (17, 32), (33, 64), (256, 256), (257, 288)]
)
def test_rows_go_into_the_least_bucket(num_rows: int, bucket: int) -> None:
    assert bucket_of(num_rows) == bucket


@pytest.mark.parametrize(
    ("num_tokens", "longest"), [(1, 256), (256, 256), (257, 512), (513, 1024), (1024, 1024), (4097, 8192)]
)
def test_lengths_go_into_powers_of_two(num_tokens: int, longest: int) -> None:
    assert longest_of(num_tokens) == longest
