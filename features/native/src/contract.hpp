// A quick yes for usual events: what passes here passes liverank.contract.validate_event, which judges all others.
#pragma once

#include "columns.hpp"
#include "proto.hpp"

namespace lr {

// Limits of liverank/contract.py.
struct Limits {
  i64 bytes, future_ms, first_ts_ms, slots, phi, value;
};
inline Limits limits{};

// Whether every value is finite; false where it is not whole float32 values.
inline bool finite_floats(std::string_view packed) {
  if (packed.size() % 4) return false;
  float sum = 0.0F;
  for (size_t at = 0; at < packed.size(); at += 4) sum += load<float>(&packed[at]) * 0.0F;
  return sum == 0.0F;
}

inline bool plain_slot(std::string_view packed, size_t n_heads, size_t& dim) {
  std::string_view item, shown, first, phi;
  double propensity = 0.0;
  u32 met = 0;
  for (Reader field(packed); field.next();) {
    if (field.field < 1 || field.field > 7 || met >> field.field & 1) return false;
    met |= 1U << field.field;
    const bool delimited = field.wire == kDelimited;
    switch (field.field) {
      case 1: item = field.bytes; break;
      case 3: propensity = field.as_double(); break;
      case 5: shown = field.bytes; break;
      case 6: first = field.bytes; break;
      case 7: phi = field.bytes; break;
      default: break;
    }
    if ((field.field == 1 || field.field >= 5) != delimited) return false;
  }
  if (item.empty() || !(propensity > 0.0 && propensity <= 1.0)) return false;
  if (shown.size() != 4 * n_heads || first.size() != 4 * n_heads || phi.size() > 4 * static_cast<size_t>(limits.phi))
    return false;
  if (dim == std::numeric_limits<size_t>::max()) dim = phi.size();
  return phi.size() == dim && finite_floats(shown) && finite_floats(first) && finite_floats(phi);
}

inline bool plain_exposure(std::string_view packed) {
  size_t n_heads = 0, n_slots = 0, dim = std::numeric_limits<size_t>::max();
  for (Reader field(packed); field.next();) n_heads += field.field == 6;
  for (Reader field(packed); field.next();) {
    if (field.field < 1 || field.field > 7 || (field.field == 5) != (field.wire == kVarint)) return false;
    if (field.field == 7 && (++n_slots > static_cast<size_t>(limits.slots) || !plain_slot(field.bytes, n_heads, dim)))
      return false;
  }
  return n_slots > 0;
}

inline bool plain(std::string_view packed, i64 now_ms) {
  if (static_cast<i64>(packed.size()) > limits.bytes) return false;
  size_t sizes[11] = {};
  u64 kind = 0, ts_ms = 0, position = 0;
  double value = 0.0;
  bool exposure = false;
  u32 met = 0;
  for (Reader field(packed); field.next();) {
    if (field.field < 1 || field.field > 20 || met >> field.field & 1) return false;
    met |= 1U << field.field;
    switch (field.field) {
      case 1: case 3: case 4: case 5: case 8: case 10:
        if (field.wire != kDelimited) return false;
        sizes[field.field] = field.bytes.size();
        break;
      case 2: case 6: case 9:
        if (field.wire != kVarint) return false;
        (field.field == 2 ? kind : field.field == 6 ? ts_ms : position) = field.number;
        break;
      case 7:
        if (field.wire != kFixed64) return false;
        value = field.as_double();
        break;
      case 20:
        if (field.wire != kDelimited || !plain_exposure(field.bytes)) return false;
        exposure = true;
        break;
      default:
        return false;  // context, attributes, control, fields of a later contract
    }
  }
  if (!((kind >= 1 && kind <= kSurvey) || kind == kExposure) || exposure != (kind == kExposure)) return false;
  if (sizes[1] == 0 || sizes[1] > 64 || sizes[3] + sizes[4] == 0 || sizes[3] > 128 || sizes[4] > 128) return false;
  if (sizes[5] > 128 || sizes[8] > 64 || sizes[10] > 64 || position > 10'000) return false;
  if (sizes[5] == 0 && kind != kExposure && kind != kSurvey && kind != kSearch && kind != kSessionEnd) return false;
  if (ts_ms > static_cast<u64>(std::numeric_limits<i64>::max())) return false;
  if (static_cast<i64>(ts_ms) < limits.first_ts_ms || static_cast<i64>(ts_ms) - limits.future_ms > now_ms) return false;
  if (!(std::fabs(value) <= static_cast<double>(limits.value)) || (kind == kDwell && value < 0)) return false;
  return kind != kSurvey || (value >= 0.0 && value <= 1.0);
}

inline bool ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char each) { return each >= 0; });
}

inline size_t varint_size(u64 value) { return value ? (static_cast<size_t>(std::bit_width(value)) + 6) / 7 : 1; }

// Whether protobuf would write a message as it lies there; `known` judges each field. Fields in `repeated` may come
// again, and hold nothing.
template <class Known>
bool canonical(std::string_view packed, u32 repeated, Known known) {
  size_t size = 0;
  u32 last = 0;
  for (Reader field(packed); field.next(); last = field.field) {
    const bool again = field.field < 32 && repeated >> field.field & 1;
    if (field.field < last || (field.field == last && !again) || !known(field)) return false;
    size += varint_size(u64{field.field} << 3);
    if (field.wire == kVarint) {
      if (field.number == 0) return false;
      size += varint_size(field.number);
    } else if (field.wire == kDelimited) {
      if (field.bytes.empty() && !again) return false;
      size += varint_size(field.bytes.size()) + field.bytes.size();
    } else {
      if (field.wire != kFixed64 || load<u64>(field.bytes.data()) == 0) return false;
      size += 8;
    }
  }
  return size == packed.size();
}

inline bool canonical_slot(const Reader& slot) {
  return canonical(slot.bytes, 0, [](const Reader& field) {
    switch (field.field) {
      case 1: case 8: return field.wire == kDelimited && ascii(field.bytes);
      case 5: case 6: case 7: return field.wire == kDelimited && field.bytes.size() % 4 == 0;
      case 2: return field.wire == kVarint;
      case 3: return field.wire == kFixed64;
      case 4: return field.wire == kVarint && field.number == 1;
      default: return false;
    }
  });
}

// Whether this is an exposure as protobuf writes it, without context, further values and variants, its texts ASCII: what
// is kept of it are these bytes.
inline bool canonical_exposure(std::string_view packed) {
  return canonical(packed, 0, [](const Reader& event) {
    switch (event.field) {
      case 1: case 3: case 4: case 5: case 8: case 10: return event.wire == kDelimited && ascii(event.bytes);
      case 2: return event.wire == kVarint && event.number == kExposure;
      case 6: return event.wire == kVarint;
      case 7: return event.wire == kFixed64;
      case 9: return event.wire == kVarint && event.number <= 10'000;
      case 20: break;
      default: return false;
    }
    return event.wire == kDelimited && canonical(event.bytes, 1U << 6 | 1U << 7, [](const Reader& field) {
      switch (field.field) {
        case 1: case 2: case 3: case 4: case 6: case 8: return field.wire == kDelimited && ascii(field.bytes);
        case 5: return field.wire == kVarint && field.number == 1;
        case 7: return field.wire == kDelimited && canonical_slot(field);
        default: return false;
      }
    });
  });
}

// plain_event(value: bytes, now_ms) -> bool
inline PyObject* plain_event(PyObject*, PyObject* const* args, Py_ssize_t n) {
  return guarded([&]() -> PyObject* {
    expect(n, 2, 2);
    std::string_view packed = bytes_of(args[0]);
    i64 now_ms = integer(args[1]);
    try {
      return PyBool_FromLong(plain(packed, now_ms));
    } catch (const Raised&) {
      PyErr_Clear();  // bytes that cannot be read are for the full check
      Py_RETURN_FALSE;
    }
  });
}

}  // namespace lr
