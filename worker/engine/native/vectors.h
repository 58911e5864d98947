// Vectors of 16 floats in GCC's and Clang's own spelling, which the compiler cuts to what the processor has.
//
// ELEMENT_BITS (32: float, 16: bfloat16) comes from the compiler's command line.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace {

constexpr int kLanes = 16;

typedef float Vec __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef int32_t IntVec __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef uint16_t HalfVec __attribute__((vector_size(2 * kLanes), aligned(2), may_alias));

#if ELEMENT_BITS == 32
typedef float Element;
inline Vec widen(const Element* from) { return *reinterpret_cast<const Vec*>(from); }
inline void narrow(Vec value, Element* to) { *reinterpret_cast<Vec*>(to) = value; }
#else
typedef uint16_t Element;  // bfloat16 is the upper half of a float32
inline Vec widen(const Element* from) {
  const IntVec bits = __builtin_convertvector(*reinterpret_cast<const HalfVec*>(from), IntVec) << 16;
  return reinterpret_cast<const Vec&>(bits);
}
inline void narrow(Vec value, Element* to) {  // round to nearest, ties to even
  const IntVec bits = reinterpret_cast<const IntVec&>(value);
  const IntVec rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  const IntVec quiet_nan = rounded * 0 + 0x7FC0;
  *reinterpret_cast<HalfVec*>(to) = __builtin_convertvector(value == value ? rounded : quiet_nan, HalfVec);
}
#endif

// The first `count` elements, the other lanes zero.
inline Vec widen_some(const Element* from, int count) {
  Element padded[kLanes] = {};
  std::memcpy(padded, from, sizeof(Element) * count);
  return widen(padded);
}

inline void narrow_some(Vec value, Element* to, int count) {
  Element padded[kLanes];
  narrow(value, padded);
  std::memcpy(to, padded, sizeof(Element) * count);
}

// Call work(vector's first element, elements in it) over [0, size): a row's remainder by itself, wherever the row lies.
template <typename Work>
inline void for_vectors(int64_t size, Work work) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) work(i, std::integral_constant<int, kLanes>{});
  if (i < size) work(i, static_cast<int>(size - i));
}

inline Vec read(const Element* from, std::integral_constant<int, kLanes>) { return widen(from); }
inline Vec read(const Element* from, int count) { return widen_some(from, count); }
inline void write(Vec value, Element* to, std::integral_constant<int, kLanes>) { narrow(value, to); }
inline void write(Vec value, Element* to, int count) { narrow_some(value, to, count); }

inline float sum_lanes(Vec x) {
  float total = 0;
  for (int i = 0; i < kLanes; ++i) total += x[i];
  return total;
}

inline float max_lanes(Vec x) {
  float top = x[0];
  for (int i = 1; i < kLanes; ++i) top = std::max(top, static_cast<float>(x[i]));
  return top;
}

// e^x for x <= 0 (Cephes' expf: within 2 units in the last place); 0 below -87, NaN stays NaN.
inline Vec exp_negative(Vec x) {
  const Vec scaled = x * 1.44269504088896341f;
  const IntVec power = __builtin_convertvector(scaled - 0.5f, IntVec);
  const Vec whole = __builtin_convertvector(power, Vec);
  const Vec r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
  Vec y = r * 1.9875691500e-4f + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.0f;
  const IntVec exponent = (power + 127) << 23;
  y *= reinterpret_cast<const Vec&>(exponent);
  const Vec zero = {};
  return x < -87.0f ? zero : y;
}

}  // namespace
