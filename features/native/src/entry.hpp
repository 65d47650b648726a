// One signal of a user's history: the same bytes as features/state/entries.py.
#pragma once

#include "base.hpp"

namespace lr {

struct Entry {
  i64 ts_ms, item;
  i64 kind, sixteenths, version, category;

  auto key() const { return std::tie(ts_ms, item, kind, sixteenths, version, category); }
  bool operator<(const Entry& other) const { return key() < other.key(); }
  bool operator==(const Entry& other) const { return key() == other.key(); }

  static constexpr size_t kSize = 24;

  static Entry of(PyObject* tuple) {
    if (!PyTuple_Check(tuple) || PyTuple_GET_SIZE(tuple) != 6) raise(PyExc_TypeError, "an entry has six fields");
    auto at = [&](Py_ssize_t field) { return integer(PyTuple_GET_ITEM(tuple, field)); };
    return {at(0), at(1), at(2), at(3), at(4), at(5)};
  }

  static Entry unpack(const char* data) {
    i64 low = load<u32>(data), high = load<u16>(data + 4);
    return {high << 32 | low, load<i64>(data + 16), load<u8>(data + 6), load<signed char>(data + 7),
            load<std::int32_t>(data + 8), load<u32>(data + 12)};
  }

  void pack_into(char* out) const {
    auto set = [&](size_t at, auto value) { std::memcpy(out + at, &value, sizeof(value)); };
    set(0, static_cast<u32>(ts_ms));
    set(4, static_cast<u16>(ts_ms >> 32));
    set(6, static_cast<u8>(kind));
    set(7, static_cast<signed char>(sixteenths));
    set(8, static_cast<std::int32_t>(version));
    set(12, static_cast<u32>(category));
    set(16, item);
  }

  Ref object() const {
    Ref values[] = {py(ts_ms), py(item), py(kind), py(sixteenths), py(version), py(category)};
    PyObject* args[6];
    for (int at = 0; at < 6; ++at) args[at] = values[at].get();
    return Ref(checked(PyObject_Vectorcall(imported.entry, args, 6, nullptr)));
  }
};

}  // namespace lr
