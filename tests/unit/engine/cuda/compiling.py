"""Compiles the kernels for a GPU that is not there: python -m tests.unit.engine.cuda.compiling DTYPE

The functions that launch them are called with tensors that have no memory, and each launch is compiled instead, with
the arguments it would have. Prints a line each: the kernel's name and its shared memory in bytes. Triton must not be in
its interpreter's mode, which is chosen when it is imported: so this is a process of its own.
"""

import sys
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from worker.engine.cuda.activations import swiglu
from worker.engine.cuda.decode_attention import Workspace, attend_pages
from worker.engine.cuda.matmul import invariant_linear
from worker.engine.cuda.norms import add_rms_norm, log_norm, rms_norm
from worker.engine.cuda.pages import PAGE_TOKENS
from worker.engine.cuda.placing import place
from worker.engine.cuda.prefill_attention import attend_prompts
from worker.engine.cuda.sampling import sample_rows

HOPPER = GPUTarget("cuda", 90, 32)
TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float8_e4m3fn: "fp8e4nv",
    torch.int32: "i32",
    torch.int64: "i64",
}
ROWS, HEADS, KV_HEADS, HIDDEN, VOCABULARY = 32, 32, 8, 4096, 128256  # Llama 3's


def compile_launch(kernel: Any, *args: object, grid: object, warmup: bool, **kwargs: object) -> None:  # noqa: ANN401
    """What a launch does here."""
    del grid, warmup
    names: list[str] = kernel.arg_names
    given = dict(zip(names, args, strict=False)) | {name: kwargs.pop(name) for name in names if name in kwargs}
    signature, constants, attributes = {}, {}, {}
    for index, name in enumerate(names):
        value, parameter = given[name], kernel.params[index]
        if parameter.is_constexpr or (isinstance(value, int) and value == 1 and not parameter.do_not_specialize):
            signature[name], constants[(index,)] = "constexpr", value
            continue
        signature[name] = type_of(value)
        if isinstance(value, Tensor) or (is_divisible(value) and not parameter.do_not_specialize):
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=HOPPER, options=kwargs)
    print(kernel.__name__, compiled.metadata.shared, flush=True)  # noqa: T201 (read by the test)


def type_of(value: object) -> str:
    """Triton's name of an argument's type."""
    if isinstance(value, Tensor):
        return f"*{TYPES[value.dtype]}"
    return "fp32" if isinstance(value, float) else "i32"


def is_divisible(value: object) -> bool:
    """Whether Triton makes a special kernel for this number."""
    return isinstance(value, int) and value % 16 == 0


def tensor(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def launch_all(dtype: torch.dtype) -> None:
    """Call everything that launches a kernel, as an 8B model with heads of 64 and 128 does."""
    hidden, weight = tensor(ROWS, HIDDEN, dtype=dtype), tensor(HIDDEN, dtype=dtype)
    rms_norm(hidden, weight, 1e-5)
    add_rms_norm(hidden, hidden, weight, 1e-5)
    swiglu(tensor(ROWS, 2 * 14336, dtype=dtype))
    invariant_linear(hidden, tensor(HIDDEN, HIDDEN, dtype=dtype), None)
    for head_dim in (64, 128):
        for cache_dtype in (dtype, torch.float8_e4m3fn) if dtype.itemsize == 2 else (dtype,):
            attend(head_dim, dtype, cache_dtype)
    scores = tensor(ROWS, VOCABULARY, dtype=torch.float32)
    log_norm(scores)
    floats, integers = tensor(ROWS, dtype=torch.float32), tensor(ROWS, dtype=torch.int64)
    sample_rows(
        *(scores, scores),
        temperature=floats,
        top_k=integers,
        top_p=floats,
        min_p=floats,
        seed=integers,
        generated=integers,
    )


def attend(head_dim: int, dtype: torch.dtype, cache_dtype: torch.dtype) -> None:
    """Place tokens, and attend to them as a decode step and as a prefill do."""
    cache = tensor(100, KV_HEADS, PAGE_TOKENS, head_dim, dtype=cache_dtype)
    tables, numbers = tensor(ROWS, 128, dtype=torch.int32), tensor(ROWS, dtype=torch.int32)
    heads, table = tensor(ROWS, HEADS + 2 * KV_HEADS, head_dim, dtype=dtype), tensor(8192, head_dim // 2, dtype=dtype)
    norm, q = tensor(head_dim, dtype=dtype), tensor(ROWS, HEADS, head_dim, dtype=dtype)
    workspace = Workspace.allocate(ROWS, HEADS, head_dim, max_tokens=8192, device=torch.device("meta"))
    place(
        *(heads, cache, cache, tables, numbers, tensor(ROWS, dtype=torch.int64)),
        rotation=(table, table),
        norms=(norm, norm),
        eps=1e-5,
    )
    attend_pages(q, cache, cache, tables, numbers, workspace)
    attend_prompts(q, cache, cache, tables, tensor(4, 4, dtype=torch.int32), q)


if __name__ == "__main__":
    JITFunction.run = compile_launch
    launch_all(getattr(torch, sys.argv[1]))
