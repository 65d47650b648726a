// The due index in memory: the same as streams/dues.py, which says what it means.
#pragma once

#include "base.hpp"

namespace lr {

constexpr i64 kNotDue = std::numeric_limits<i64>::max();

inline Ref due_object(i64 due_ms) { return due_ms == kNotDue ? Ref::borrowed(Py_None) : py(due_ms); }
inline i64 due_of(PyObject* object) { return object == Py_None ? kNotDue : integer(object); }

class DueIndex {
 public:
  struct Due {
    i64 due_ms;
    Ref key;
  };

  DueIndex(Arguments, Py_ssize_t n)
      : due_((expect(n, 0, 0), checked(PyDict_New()))), changes_(checked(PyDict_New())) {}

  Py_ssize_t size() const { return PyDict_Size(due_.get()); }

  // extend(entries, horizon_ms)
  PyObject* extend(Arguments args, Py_ssize_t n) {
    expect(n, 2, 2);
    horizon_ms = integer(args[1]);
    Ref entries(checked(PySequence_Fast(args[0], "entries are a sequence")));
    for (Py_ssize_t at = 0; at < PySequence_Fast_GET_SIZE(entries.get()); ++at) {
      PyObject *key, *due_ms;
      if (!PyArg_ParseTuple(PySequence_Fast_GET_ITEM(entries.get(), at), "OO", &key, &due_ms)) throw Raised{};
      const int known = PyDict_Contains(due_.get(), key);
      if (known < 0) throw Raised{};
      if (!known) hold(key, integer(due_ms));
    }
    Py_RETURN_NONE;
  }

  // put(key, due_ms)
  PyObject* put(Arguments args, Py_ssize_t n) {
    expect(n, 2, 2);
    put_one(args[0], due_of(args[1]));
    Py_RETURN_NONE;
  }

  void put_one(PyObject* key, i64 due_ms) {
    lr::put(changes_.get(), key, due_object(due_ms));
    if (due_ms != kNotDue && due_ms <= horizon_ms)
      hold(key, due_ms);
    else
      forget(key);
  }

  // any_due(clock_ms)
  PyObject* any_due(Arguments args, Py_ssize_t n) {
    expect(n, 1, 1);
    return PyBool_FromLong(any(integer(args[0])));
  }

  bool any(i64 clock_ms) const { return !heap_.empty() && heap_.front().due_ms <= clock_ms; }

  // pop_due(clock_ms) -> [(due_ms, key)]
  PyObject* pop_due(Arguments args, Py_ssize_t n) {
    expect(n, 1, 1);
    Ref found(checked(PyList_New(0)));
    for (const Due& each : pop(integer(args[0]))) {
      Ref due_ms = py(each.due_ms);
      append(found.get(), Ref(checked(PyTuple_Pack(2, due_ms.get(), each.key.get()))));
    }
    return found.release();
  }

  std::vector<Due> pop(i64 clock_ms) {
    std::vector<Due> found;
    while (any(clock_ms)) {
      std::pop_heap(heap_.begin(), heap_.end(), later);
      Due due = std::move(heap_.back());
      heap_.pop_back();
      PyObject* known = PyDict_GetItemWithError(due_.get(), due.key.get());
      if (known == nullptr) {
        if (PyErr_Occurred()) throw Raised{};
      } else if (integer(known) == due.due_ms) {
        forget(due.key.get());
        found.push_back(std::move(due));
      }
    }
    return found;
  }

  // Take back what `pop` gave.
  void give_back(const std::vector<Due>& found) {
    for (const Due& each : found) hold(each.key.get(), each.due_ms);
  }

  // take_changes() -> dict
  PyObject* take_changes(Arguments, Py_ssize_t) {
    Ref taken = changes_;
    changes_ = Ref(checked(PyDict_New()));
    return taken.release();
  }

  PyObject* get_changes() { return Py_NewRef(changes_.get()); }

  i64 horizon_ms = 0;

 private:
  static bool later(const Due& one, const Due& other) {
    if (one.due_ms != other.due_ms) return one.due_ms > other.due_ms;
    const int order = PyUnicode_Compare(one.key.get(), other.key.get());
    if (order == -1 && PyErr_Occurred()) throw Raised{};
    return order > 0;
  }

  void hold(PyObject* key, i64 due_ms) {
    lr::put(due_.get(), key, py(due_ms));
    heap_.push_back({due_ms, Ref::borrowed(key)});
    std::push_heap(heap_.begin(), heap_.end(), later);
  }

  void forget(PyObject* key) {
    const int known = PyDict_Contains(due_.get(), key);
    if (known < 0 || (known && PyDict_DelItem(due_.get(), key) < 0)) throw Raised{};
  }

  Ref due_, changes_;
  std::vector<Due> heap_;
};

}  // namespace lr
