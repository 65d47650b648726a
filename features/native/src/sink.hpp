// Numbered effects on items, collected in the open call: the twin of features.state.effects.Sink.
#pragma once

#include <unordered_map>

#include "effects.hpp"

namespace lr {

class Sink {
 public:
  // Sink(n_partitions, partition_of)
  Sink(Arguments args, Py_ssize_t n)
      : n_partitions_((expect(n, 2, 2), Ref::borrowed(args[0]))), partition_of_(Ref::borrowed(args[1])),
        effects_(checked(PyDict_New())) {}

  // effect(item_id, effect: bytes)
  PyObject* effect(Arguments args, Py_ssize_t n) {
    expect(n, 2, 2);
    add(text(args[0]), bytes_of(args[1]));
    Py_RETURN_NONE;
  }

  // number(target, effect: bytes)
  PyObject* number(Arguments args, Py_ssize_t n) {
    expect(n, 2, 2);
    add_to(integer(args[0]), bytes_of(args[1]));
    Py_RETURN_NONE;
  }

  void add(std::string_view item_id, std::string_view packed) {
    auto found = targets_.find(std::string(item_id));
    if (found == targets_.end()) {
      if (targets_.size() > kMostTargets) targets_.clear();
      Ref id = py_bytes(item_id);
      PyObject* args[] = {id.get(), n_partitions_.get()};
      Ref target(checked(PyObject_Vectorcall(partition_of_.get(), args, 2, nullptr)));
      found = targets_.emplace(std::string(item_id), integer(target.get())).first;
    }
    add_to(found->second, packed);
  }

  PyObject* get_effects() { return Py_NewRef(effects_.get()); }
  void collect_in(PyObject* effects) { effects_ = Ref::borrowed(effects); }

  i64 offset = 0, step = 0, place = 0;

 private:
  static constexpr size_t kMostTargets = 200'000;

  void add_to(i64 target, std::string_view packed) {
    Ref key = py(target), entry = py_bytes(numbered_entry(offset, step, place++, packed));
    PyObject* entries = PyDict_GetItemWithError(effects_.get(), key.get());
    if (entries == nullptr) {
      if (PyErr_Occurred()) throw Raised{};
      Ref made(checked(PyList_New(0)));
      put(effects_.get(), key.get(), made);
      append(made.get(), entry);
    } else {
      append(entries, entry);
    }
  }

  Ref n_partitions_, partition_of_, effects_;
  std::unordered_map<std::string, i64> targets_;
};

inline int set_effects(PyObject* self, PyObject* effects, void*) {
  if (effects == nullptr || !PyDict_Check(effects)) {
    PyErr_SetString(PyExc_TypeError, "effects are a dict");
    return -1;
  }
  reinterpret_cast<Box<Sink>*>(self)->value->collect_in(effects);
  return 0;
}

}  // namespace lr
