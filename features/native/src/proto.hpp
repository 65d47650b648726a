// Just enough of the protobuf wire format: read messages that upb wrote, write the ones that folds send.
#pragma once

#include "base.hpp"

namespace lr {

inline void varint(std::string& out, u64 value) {
  while (value >= 0x80) {
    out.push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out.push_back(static_cast<char>(value));
}

constexpr u32 kVarint = 0, kFixed64 = 1, kDelimited = 2, kFixed32 = 5;

inline void tag(std::string& out, u32 field, u32 wire) { varint(out, field << 3 | wire); }

// Fields that hold their default are left out, as proto3 does.
inline void put_int(std::string& out, u32 field, i64 value) {
  if (value == 0) return;
  tag(out, field, kVarint);
  varint(out, static_cast<u64>(value));
}

inline void put_double(std::string& out, u32 field, double value) {
  u64 bits;
  std::memcpy(&bits, &value, 8);
  if (bits == 0) return;
  tag(out, field, kFixed64);
  pack(out, value);
}

inline void put_delimited(std::string& out, u32 field, std::string_view value) {
  tag(out, field, kDelimited);
  varint(out, value.size());
  out += value;
}

inline void put_text(std::string& out, u32 field, std::string_view value) {
  if (!value.empty()) put_delimited(out, field, value);
}

// Walks over the fields of a message.
class Reader {
 public:
  explicit Reader(std::string_view data) : data_(data) {}

  // Go to the next field; false at the end.
  bool next() {
    if (at_ >= data_.size()) return false;
    u64 key = read_varint();
    field = static_cast<u32>(key >> 3);
    wire = static_cast<u32>(key & 7);
    switch (wire) {
      case kVarint:
        number = read_varint();
        break;
      case kFixed64:
        bytes = take(8);
        break;
      case kDelimited:
        bytes = take(read_varint());
        break;
      case kFixed32:
        bytes = take(4);
        break;
      default:
        broken();
    }
    return true;
  }

  double as_double() const { return wire == kFixed64 ? load<double>(bytes.data()) : 0.0; }

  u32 field = 0, wire = 0;
  u64 number = 0;
  std::string_view bytes;

 private:
  [[noreturn]] static void broken() { raise(PyExc_ValueError, "protobuf bytes cannot be read"); }

  u64 read_varint() {
    u64 value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at_ >= data_.size()) broken();
      u8 byte = static_cast<u8>(data_[at_++]);
      value |= static_cast<u64>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    broken();
  }

  std::string_view take(u64 n) {
    if (n > data_.size() - at_) broken();
    std::string_view found = data_.substr(at_, n);
    at_ += n;
    return found;
  }

  std::string_view data_;
  size_t at_ = 0;
};

}  // namespace lr
