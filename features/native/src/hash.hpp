// BLAKE2b of 8 bytes (RFC 7693): names of items, events, categories and texts, as features/hashing.py and
// features/columns.py make them.
#pragma once

#include "base.hpp"

namespace lr {

class Blake2b8 {
 public:
  static u64 of(std::string_view data) {
    u64 h[8];
    std::copy(std::begin(kStart), std::end(kStart), h);
    h[0] ^= 0x01010000 ^ 8;  // no key, digest of 8 bytes
    u64 done = 0;
    while (data.size() > 128) {
      done += 128;
      compress(h, data.data(), done, false);
      data.remove_prefix(128);
    }
    char last[128] = {};
    if (!data.empty()) std::memcpy(last, data.data(), data.size());
    compress(h, last, done + data.size(), true);
    return h[0];
  }

 private:
  static constexpr u64 kStart[8] = {0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
                                    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};
  static constexpr u8 kOrder[10][16] = {
      {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
      {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
      {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
      {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
      {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};

  static void compress(u64* h, const char* block, u64 counted, bool last) {
    u64 v[16], m[16];
    std::copy(h, h + 8, v);
    std::copy(std::begin(kStart), std::end(kStart), v + 8);
    v[12] ^= counted;
    if (last) v[14] = ~v[14];
    std::memcpy(m, block, 128);
    auto mix = [&](int a, int b, int c, int d, u64 x, u64 y) {
      v[a] += v[b] + x;
      v[d] = std::rotr(v[d] ^ v[a], 32);
      v[c] += v[d];
      v[b] = std::rotr(v[b] ^ v[c], 24);
      v[a] += v[b] + y;
      v[d] = std::rotr(v[d] ^ v[a], 16);
      v[c] += v[d];
      v[b] = std::rotr(v[b] ^ v[c], 63);
    };
    for (int round = 0; round < 12; ++round) {
      const u8* s = kOrder[round % 10];
      mix(0, 4, 8, 12, m[s[0]], m[s[1]]);
      mix(1, 5, 9, 13, m[s[2]], m[s[3]]);
      mix(2, 6, 10, 14, m[s[4]], m[s[5]]);
      mix(3, 7, 11, 15, m[s[6]], m[s[7]]);
      mix(0, 5, 10, 15, m[s[8]], m[s[9]]);
      mix(1, 6, 11, 12, m[s[10]], m[s[11]]);
      mix(2, 7, 8, 13, m[s[12]], m[s[13]]);
      mix(3, 4, 9, 14, m[s[14]], m[s[15]]);
    }
    for (int at = 0; at < 8; ++at) h[at] ^= v[at] ^ v[at + 8];
  }
};

// features.hashing.id_hash
inline i64 id_hash(std::string_view text) { return static_cast<i64>(Blake2b8::of(text)); }

// features.hashing.category_hash
inline u32 category_hash(std::string_view category) {
  if (category.empty()) return 0;
  const u32 hashed = static_cast<u32>(Blake2b8::of(category));
  return hashed ? hashed : 1;
}

// features.columns.text_hash
inline double text_hash(std::string_view text) {
  return text.empty() ? std::numeric_limits<double>::quiet_NaN() : static_cast<double>(Blake2b8::of(text) >> 11);
}

}  // namespace lr
