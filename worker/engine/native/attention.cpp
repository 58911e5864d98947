// Attention of single queries over the K/V cache, compiled for one model shape on the machine that runs it.
//
// A query reads exactly its own keys, and every sum runs in an order that its key count alone decides: nothing else in
// the batch, and not whether the query came in a prompt or in a decode step, can change a bit of its result.
//
// HEAD_DIM, GROUP (query heads that share a key head), NUM_KV_HEADS and ELEMENT_BITS (32: float, 16: bfloat16) come
// from the compiler's command line. Token i lies in slot slots[i] at positions[i]. Of one layer's cache the values are
// [slots, NUM_KV_HEADS, width, HEAD_DIM] and the keys [slots, NUM_KV_HEADS, width / 16, HEAD_DIM, 16]: with 16 keys side
// by side a query meets them all in one multiplication, and no sum runs across the lanes of a vector.

#include "vectors.h"

#include <vector>

namespace {

constexpr int kChunks = (HEAD_DIM + kLanes - 1) / kLanes;  // vectors a head
constexpr int kTail = HEAD_DIM % kLanes;
constexpr int kPadded = kChunks * kLanes;

// Vector `chunk` of a head; lanes beyond the head are zero.
inline Vec load(const Element* head, int chunk) {
  if (kTail == 0 || chunk < kChunks - 1) return widen(head + chunk * kLanes);
  return widen_some(head + chunk * kLanes, kTail);
}

// Call `work` for every four query heads, then for those left: more would not fit the registers.
template <typename Work>
void for_blocks(Work work) {
  constexpr int kBlocked = GROUP / 4 * 4;
  for (int g = 0; g < kBlocked; g += 4) work(std::integral_constant<int, 4>{}, g);
  if constexpr (GROUP % 4 != 0) work(std::integral_constant<int, GROUP % 4>{}, kBlocked);
}

// Scores of NUM queries against `num_blocks` blocks of 16 keys: scores[g][t] = q[g] . k[t].
template <int NUM>
void score(const float (*q)[kPadded], const Element* blocks, int64_t num_blocks, float* scores, int64_t stride) {
  for (int64_t b = 0; b < num_blocks; ++b) {
    const Element* block = blocks + b * HEAD_DIM * kLanes;
    Vec even[NUM] = {}, odd[NUM] = {};  // two chains of sums, or each addition waits for the one before
    for (int d = 0; d < HEAD_DIM; d += 2) {
      const Vec keys0 = widen(block + d * kLanes), keys1 = widen(block + (d + 1) * kLanes);
      for (int g = 0; g < NUM; ++g) {
        even[g] += q[g][d] * keys0;
        odd[g] += q[g][d + 1] * keys1;
      }
    }
    for (int g = 0; g < NUM; ++g) *reinterpret_cast<Vec*>(scores + g * stride + b * kLanes) = even[g] + odd[g];
  }
}

// Turn scores [0, padded) into e^(score - max) in place, taking only [begin, end) for keys; gives their sum.
float exponentiate(float* scores, int64_t begin, int64_t end, int64_t padded) {
  std::fill(scores, scores + begin, -INFINITY);
  std::fill(scores + end, scores + padded, -INFINITY);
  Vec highest = *reinterpret_cast<const Vec*>(scores);
  for (int64_t t = kLanes; t < padded; t += kLanes) {
    const Vec x = *reinterpret_cast<const Vec*>(scores + t);
    highest = x > highest ? x : highest;
  }
  const float top = max_lanes(highest);
  Vec total = {};
  for (int64_t t = 0; t < padded; t += kLanes) {
    Vec& x = *reinterpret_cast<Vec*>(scores + t);
    x = exp_negative(x - top);
    total += x;
  }
  return sum_lanes(total);
}

// Add up weights[g][t] * v[t] over t in [begin, end), in order, for NUM query heads and WIDTH vectors of the head.
template <int NUM, int WIDTH>
void mix(const float* weights, int64_t stride, const Element* v, int64_t begin, int64_t end, int chunk,
         float (*out)[kPadded]) {
  Vec sums[NUM][WIDTH] = {};
  for (int64_t t = begin; t < end; ++t) {
    for (int c = 0; c < WIDTH; ++c) {
      const Vec value = load(v + t * HEAD_DIM, chunk + c);
      for (int g = 0; g < NUM; ++g) sums[g][c] += weights[g * stride + t] * value;
    }
  }
  for (int g = 0; g < NUM; ++g)
    for (int c = 0; c < WIDTH; ++c) *reinterpret_cast<Vec*>(out[g] + (chunk + c) * kLanes) = sums[g][c];
}

template <int NUM>
void mix_heads(const float* weights, int64_t stride, const Element* v, int64_t begin, int64_t end,
               float (*out)[kPadded]) {
  constexpr int kWide = kChunks / 4 * 4;
  for (int chunk = 0; chunk < kWide; chunk += 4) mix<NUM, 4>(weights, stride, v, begin, end, chunk, out);
  if constexpr (kChunks % 4 != 0) mix<NUM, kChunks % 4>(weights, stride, v, begin, end, kWide, out);
}

// The queries of one token that share a key head, over keys and values [begin, end) of its slot.
void attend_group(const Element* q, const Element* k, const Element* v, int64_t begin, int64_t end, Element* out) {
  thread_local std::vector<float> scratch;
  const int64_t first = begin / kLanes * kLanes;  // keys lie in blocks
  const int64_t padded = (end - first + kLanes - 1) / kLanes * kLanes;
  scratch.resize(GROUP * padded);
  float* scores = scratch.data();
  alignas(64) float scaled[GROUP][kPadded];
  alignas(64) float mixed[GROUP][kPadded];
  float sums[GROUP];
  const float scale = 1.0f / std::sqrt(static_cast<float>(HEAD_DIM));
  for (int g = 0; g < GROUP; ++g)
    for (int c = 0; c < kChunks; ++c)
      *reinterpret_cast<Vec*>(scaled[g] + c * kLanes) = load(q + g * HEAD_DIM, c) * scale;
  k += first * HEAD_DIM;
  v += first * HEAD_DIM;
  for_blocks([&](auto num, int g) {
    score<num>(scaled + g, k, padded / kLanes, scores + g * padded, padded);
  });
  for (int g = 0; g < GROUP; ++g) sums[g] = exponentiate(scores + g * padded, begin - first, end - first, padded);
  for_blocks([&](auto num, int g) {
    mix_heads<num>(scores + g * padded, padded, v, begin - first, end - first, mixed + g);
  });
  for (int g = 0; g < GROUP; ++g) {
    for_vectors(HEAD_DIM, [&](int64_t at, auto count) {
      write(*reinterpret_cast<const Vec*>(mixed[g] + at) / sums[g], out + g * HEAD_DIM + at, count);
    });
  }
}

}  // namespace

extern "C" {

// Write keys and values [n, NUM_KV_HEADS, HEAD_DIM] to their places in the cache; tokens lie `stride` elements apart.
void store(const Element* k, int64_t k_stride, const Element* v, int64_t v_stride, Element* cache_k, Element* cache_v,
           int64_t width, const int64_t* slots, const int64_t* positions, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    for (int h = 0; h < NUM_KV_HEADS; ++h) {
      const int64_t head = (slots[i] * NUM_KV_HEADS + h) * width * HEAD_DIM;
      const int64_t block = positions[i] / kLanes * kLanes * HEAD_DIM;
      Element* keys = cache_k + head + block + positions[i] % kLanes;
      for (int d = 0; d < HEAD_DIM; ++d) keys[d * kLanes] = k[i * k_stride + h * HEAD_DIM + d];
      Element* values = cache_v + head + positions[i] * HEAD_DIM;
      std::memcpy(values, v + i * v_stride + h * HEAD_DIM, sizeof(Element) * HEAD_DIM);
    }
  }
}

// Attend with q [n, heads, HEAD_DIM] over each one's slot up to its own position -> out [n, heads * HEAD_DIM].
// `window` > 0: only the newest `window` keys.
void attend(const Element* q, int64_t q_stride, Element* out, const Element* cache_k, const Element* cache_v,
            int64_t width, const int64_t* slots, const int64_t* positions, int64_t n, int64_t window, int num_threads) {
  // The last tokens of a prompt have the most keys: small shares keep the threads even.
#pragma omp parallel for collapse(2) schedule(dynamic, 4) num_threads(num_threads) if (num_threads > 1)
  for (int64_t i = 0; i < n; ++i) {
    for (int h = 0; h < NUM_KV_HEADS; ++h) {
      const int64_t end = positions[i] + 1;
      const int64_t begin = window > 0 ? std::max<int64_t>(0, end - window) : 0;
      const int64_t head = (slots[i] * NUM_KV_HEADS + h) * width * HEAD_DIM;
      attend_group(q + i * q_stride + h * GROUP * HEAD_DIM, cache_k + head, cache_v + head, begin, end,
                   out + (i * NUM_KV_HEADS + h) * GROUP * HEAD_DIM);
    }
  }
}

}  // extern "C"
