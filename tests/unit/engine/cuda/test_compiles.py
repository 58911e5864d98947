"""What the interpreter cannot show: that the kernels compile for a GPU, and fit into its shared memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

MAX_SHARED_BYTES = 227 * 1024  # of one program on an H100 or H200
KERNELS = {
    *("_rms_norm", "_add_rms_norm", "_sum_pieces", "_sum_rows", "_swiglu", "_linear"),
    *("_place", "_attend_pieces", "_add_up", "_attend_tile", "_summarise", "_choose"),
}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_every_kernel_compiles_for_a_gpu(tmp_path: Path, dtype: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-m", "tests.unit.engine.cuda.compiling", dtype],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=Path(__file__).parents[4],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    compiled = [line.split() for line in run.stdout.splitlines()]
    assert {name for name, _ in compiled} == KERNELS
    assert max(int(shared) for _, shared in compiled) <= MAX_SHARED_BYTES
