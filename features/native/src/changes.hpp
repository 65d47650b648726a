// What joins an exposure, and what is said to the world of it: features/state/{exposure,exposures}.py.
#pragma once

#include "exposure.hpp"

namespace lr {

inline PyObject *label_moved = nullptr, *seen_moved = nullptr, *row_due = nullptr, *counted = nullptr;

// What a user did with an item, and the slot that it belongs to.
struct Outcome {
  std::string item;
  size_t hash;
  i64 ts_ms;
  int bits;
  std::string request_id;
  i64 position;
  Ref target;
  int slot = 0;

  Exposure* exposure() const {
    return target ? reinterpret_cast<Box<Exposure>*>(target.get())->value : nullptr;
  }

  void join(const Ref& found) {
    target = found;
    slot = exposure()->slot_of(item, hash, position);
  }

  auto age() const { return std::tie(ts_ms, item, request_id, position); }

  static constexpr size_t kHead = 15;
  size_t size_bytes() const { return kHead + item.size() + request_id.size(); }

  void write(std::string& out) const {
    pack(out, ts_ms);
    pack(out, static_cast<u8>(bits));
    pack(out, static_cast<u8>(target ? exposure()->number : 255));
    pack(out, static_cast<u8>(slot));
    pack(out, static_cast<u16>(position));
    pack(out, static_cast<u8>(item.size()));
    pack(out, static_cast<u8>(request_id.size()));
    out += item;
    out += request_id;
  }
};

// What is said to the world, in order.
struct Change {
  enum Kind { kLabel, kSeen, kRow, kCounted } kind;
  Ref exposure;
  size_t slot = 0, head = 0;
  double delta = 0.0;  // of a label
  int sign = 0;        // of a slot that was seen
  bool correction = false;
  const char* name = "";

  Ref object() const {
    Ref at = py(static_cast<i64>(slot));
    if (kind == kCounted) {
      Ref what = py_text(name);
      return Ref(checked(PyObject_CallOneArg(counted, what.get())));
    }
    if (kind == kRow) return made(row_due, {exposure.get(), at.get(), correction ? Py_True : Py_False});
    if (kind == kSeen) {
      Ref which = py(sign);
      return made(seen_moved, {exposure.get(), at.get(), which.get()});
    }
    Ref which = py(static_cast<i64>(head)), by(checked(PyFloat_FromDouble(delta)));
    return made(label_moved, {exposure.get(), at.get(), which.get(), by.get()});
  }

 private:
  static Ref made(PyObject* type, std::vector<PyObject*> args) {
    return Ref(checked(PyObject_Vectorcall(type, args.data(), args.size(), nullptr)));
  }
};

struct Changes {
  std::vector<Change> all;

  void label(const Ref& exposure, size_t slot, size_t head, double delta) {
    all.push_back({Change::kLabel, exposure, slot, head, delta});
  }
  void seen(const Ref& exposure, size_t slot, int sign) { all.push_back({Change::kSeen, exposure, slot, 0, 0.0, sign}); }
  void row(const Ref& exposure, size_t slot, bool correction) {
    all.push_back({Change::kRow, exposure, slot, 0, 0.0, 0, correction});
  }
  void count(const char* name) { all.push_back({Change::kCounted, {}, 0, 0, 0.0, 0, false, name}); }

  PyObject* listed() const {
    Ref list(checked(PyList_New(0)));
    for (const Change& each : all) append(list.get(), each.object());
    return list.release();
  }
};

}  // namespace lr
