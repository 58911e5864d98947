"""Numbers of 8 bits, float8_e4m3fn: a sign, 4 bits of exponent, 3 of mantissa, up to 448 and without infinity.

What is rounded to them has 1/16 of error at most, from 2^-6 on; below, 2^-10 in all (Micikevicius and others, "FP8
Formats for Deep Learning", 2022). A GPU reads them from compute capability 8.9 on.
"""

import triton
import triton.language as tl

_LARGEST = tl.constexpr(448.0)
_LEAST_NORMAL = tl.constexpr(2.0**-6)
_EXPONENT_BIAS = tl.constexpr((127 - 7) << 3)  # float32's less float8's, in the place of float8's exponent
_STEP = tl.constexpr(2.0**14)  # float32 has steps of 2^-9 from here on, as float8 has below its least normal number
_STEP_BITS = tl.constexpr(0x46800000)  # of the same number
_NAN = tl.constexpr(0x7F)


@triton.jit
def to_float8(x) -> tl.tensor:
    """Round float32 to the nearest, halves to even, and what is larger than 448 to that; NaN stays NaN.

    By bits and not by a cast: that of the interpreter rounds otherwise. The same as torch's cast of numbers clamped.
    """
    magnitude = tl.minimum(tl.abs(x), _LARGEST)
    bits = magnitude.to(tl.int32, bitcast=True)
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - _EXPONENT_BIAS
    subnormal = (magnitude + _STEP).to(tl.int32, bitcast=True) - _STEP_BITS
    code = tl.where(magnitude < _LEAST_NORMAL, subnormal, normal)
    code = tl.where(x != x, _NAN, code)
    sign = (x.to(tl.int32, bitcast=True) >> 24) & 0x80
    return (code | sign).to(tl.uint8).to(tl.float8e4nv, bitcast=True)


@triton.jit
def from_float8(x, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr) -> tl.tensor:
    """Widen to DTYPE, of 16 bits at least, which changes no number. In the interpreter always to float32."""
    if INTERPRETED:  # it makes 480 of NaN
        is_nan = (x.to(tl.uint8, bitcast=True) & _NAN) == _NAN
        wide = tl.where(is_nan, float("nan"), x.to(tl.float32))
    else:
        wide = x.to(DTYPE)
    return wide
