// What lies between the matrix products, a row at a time: a row's bits depend on nothing but the row.

#include "vectors.h"

#define FOR_ROWS(n)                                                               \
  _Pragma("omp parallel for num_threads(num_threads) if (num_threads > 1)")       \
  for (int64_t i = 0; i < n; ++i)

extern "C" {

// out = x / sqrt(mean(x^2) + eps) * weight over rows of x [n, size]; heads of a token count as rows of their own.
void rms_norm(const Element* x, int64_t token_stride, int64_t head_stride, int64_t heads, const Element* weight, Element* out,
              int64_t n, int64_t size, float eps, int num_threads) {
  FOR_ROWS(n) {
    const Element* row = x + i / heads * token_stride + i % heads * head_stride;
    Vec squares = {};
    for_vectors(size, [&](int64_t at, auto count) {
      const Vec value = read(row + at, count);
      squares += value * value;
    });
    const float scale = 1.0f / std::sqrt(sum_lanes(squares) / size + eps);
    for_vectors(size, [&](int64_t at, auto count) {
      write(read(row + at, count) * scale * read(weight + at, count), out + i * size + at, count);
    });
  }
}

// out = silu(gate) * up of rows [n, 2 size] that hold the gate, then up.
void swiglu(const Element* gate_up, Element* out, int64_t n, int64_t size, int num_threads) {
  FOR_ROWS(n) {
    const Element* gate = gate_up + i * 2 * size;
    for_vectors(size, [&](int64_t at, auto count) {
      const Vec x = read(gate + at, count);
      const Vec small = exp_negative(x < 0.0f ? x : -x);  // of e^x and e^-x the one that cannot overflow
      const Vec sigmoid = (x < 0.0f ? small : small * 0.0f + 1.0f) / (small + 1.0f);
      write(x * sigmoid * read(gate + size + at, count), out + i * size + at, count);
    });
  }
}

// Turn, in place, the first `size` dimensions of each head of x [n, heads, head_dim] by its token's angles: cos and
// sin are [n, size], the first half of sin negated. size / 2 need not be a multiple of 16.
void rotate(Element* x, int64_t stride, int64_t heads, int64_t head_dim, const Element* cos, const Element* sin, int64_t n,
            int64_t size, int num_threads) {
  const int64_t half = size / 2;
  FOR_ROWS(n) {
    for (int64_t h = 0; h < heads; ++h) {
      Element* head = x + i * stride + h * head_dim;
      for_vectors(half, [&](int64_t at, auto count) {
        const Vec low = read(head + at, count), high = read(head + half + at, count);
        const Element* c = cos + i * size + at;
        const Element* s = sin + i * size + at;
        write(low * read(c, count) + high * read(s, count), head + at, count);
        write(high * read(c + half, count) + low * read(s + half, count), head + half + at, count);
      });
    }
  }
}

#if ELEMENT_BITS == 32

// As `read`, but lanes beyond the row are -inf.
inline Vec read_scores(const float* from, int count) {
  Vec x = count == kLanes ? read(from, std::integral_constant<int, kLanes>{}) : read(from, count);
  for (int lane = count; lane < kLanes; ++lane) x[lane] = -INFINITY;
  return x;
}

// Log of the sum of exponentials of each row of scores [n, size].
void log_norm(const float* scores, float* out, int64_t n, int64_t size, int num_threads) {
  FOR_ROWS(n) {
    const float* row = scores + i * size;
    Vec top = {};
    top += -INFINITY;
    for_vectors(size, [&](int64_t at, auto count) {
      const Vec x = read_scores(row + at, count);
      top = x > top ? x : top;
    });
    const float highest = max_lanes(top);
    Vec total = {};
    for_vectors(size, [&](int64_t at, auto count) {
      total += exp_negative(read_scores(row + at, count) - highest);
    });
    out[i] = std::log(sum_lanes(total)) + highest;
  }
}

#endif

}  // extern "C"
