// Numbered effects on items, collected in the open call: the twin of features.state.effects.Sink.
#pragma once

#include <unordered_map>

#include "effects.hpp"
#include "hash.hpp"

namespace lr {

class Sink {
 public:
  // Sink(n_partitions, partition_of)
  Sink(Arguments args, Py_ssize_t n)
      : n_partitions_((expect(n, 2, 2), Ref::borrowed(args[0]))), partition_of_(Ref::borrowed(args[1])),
        effects_(checked(PyDict_New())) {}

  // Where items' versions are looked up (streams.catalogue.Catalogue.versions); `first`: as of imported history.
  PyObject* use_items(Arguments args, Py_ssize_t n) {
    expect(n, 2, 2);
    if (!PyDict_Check(args[0])) raise(PyExc_TypeError, "versions are a dict");
    versions_ = Ref::borrowed(args[0]);
    first_ = PyObject_IsTrue(args[1]) == 1;
    Py_RETURN_NONE;
  }

  bool knows_items() const { return static_cast<bool>(versions_); }

  // The version of an item at a time, a CatalogueItem; nullptr = unknown or removed. `hashed`: id_hash of its id.
  PyObject* item(std::string_view item_id, i64 hashed, i64 append_ts_ms) {
    PyObject* found = PyDict_GetItemWithError(versions_.get(), known(item_id, hashed).id.get());
    if (found == nullptr) {
      if (PyErr_Occurred()) throw Raised{};
      return nullptr;
    }
    PyObject *times = PyTuple_GET_ITEM(found, 0), *items = PyTuple_GET_ITEM(found, 1);
    const Py_ssize_t n = PyTuple_GET_SIZE(times);
    Py_ssize_t at = n;
    while (at > 0 && integer(PyTuple_GET_ITEM(times, at - 1)) > append_ts_ms) --at;
    PyObject* item = at > 0 ? PyTuple_GET_ITEM(items, at - 1) : Py_None;
    for (at = 0; first_ && item == Py_None && at < n; ++at) item = PyTuple_GET_ITEM(items, at);
    return item == Py_None ? nullptr : item;
  }

  // effect(item_id, effect: bytes)
  PyObject* effect(Arguments args, Py_ssize_t n) {
    expect(n, 2, 2);
    const std::string_view item_id = text(args[0]);
    add(item_id, id_hash(item_id), bytes_of(args[1]));
    Py_RETURN_NONE;
  }

  // number(target, effect: bytes)
  PyObject* number(Arguments args, Py_ssize_t n) {
    expect(n, 2, 2);
    add_to(integer(args[0]), bytes_of(args[1]));
    Py_RETURN_NONE;
  }

  void add(std::string_view item_id, i64 hashed, std::string_view packed) {
    Item& item = known(item_id, hashed);
    if (item.target < 0) {
      Ref id = py_bytes(item_id);
      PyObject* args[] = {id.get(), n_partitions_.get()};
      item.target = integer(Ref(checked(PyObject_Vectorcall(partition_of_.get(), args, 2, nullptr))).get());
    }
    add_to(item.target, packed);
  }

  PyObject* get_effects() { return Py_NewRef(effects_.get()); }
  void collect_in(PyObject* effects) { effects_ = Ref::borrowed(effects); }

  i64 offset = 0, step = 0, place = 0;

 private:
  static constexpr size_t kMostItems = 200'000;

  struct Item {
    Ref id;  // as text
    i64 target = -1;
  };

  // What was found of an item before. Two items of one hash take turns.
  Item& known(std::string_view item_id, i64 hashed) {
    if (last_ != nullptr && last_hash_ == hashed && text(last_->id.get()) == item_id) return *last_;
    auto found = items_.find(hashed);
    if (found == items_.end() || text(found->second.id.get()) != item_id) {
      if (items_.size() > kMostItems) items_.clear();
      found = items_.insert_or_assign(hashed, Item{py_text_strict(item_id)}).first;
    }
    last_hash_ = hashed;
    last_ = &found->second;
    return *last_;
  }

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

  Ref n_partitions_, partition_of_, effects_, versions_;
  bool first_ = false;
  std::unordered_map<i64, Item> items_;
  Item* last_ = nullptr;
  i64 last_hash_ = 0;
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
