"""C++ for the parts of a decode step that tensor operations do slowly on a CPU.

Compiled by the machine's own compiler (about a second, kept for the next start), checked against the plain formulas,
called through ctypes. Where any of this fails the engine runs without it and says why.
"""

from worker.engine.native.attention import KEY_BLOCK, Kernel, Shape, load_kernel
from worker.engine.native.build import NativeError
from worker.engine.native.ops import NativeOps, load_ops

__all__ = ["KEY_BLOCK", "Kernel", "NativeError", "NativeOps", "Shape", "load_kernel", "load_ops"]
