// The outbox of a call as streams/outbox.py lays it out, and what of a key's changes is public.
#pragma once

#include "base.hpp"

namespace lr {

inline bool is_private(std::string_view name) { return !name.empty() && name[0] == '_'; }

// public_fields(fields) -> those whose name does not begin with an underscore, as a new dict
inline PyObject* public_fields(PyObject*, Arguments args, Py_ssize_t n) {
  return guarded([&] {
    expect(n, 1, 1);
    if (!PyDict_Check(args[0])) raise(PyExc_TypeError, "fields are a dict");
    Ref kept(checked(PyDict_New()));
    PyObject *name, *page;
    for (Py_ssize_t at = 0; PyDict_Next(args[0], &at, &name, &page);)
      if (!is_private(bytes_of(name)) && PyDict_SetItem(kept.get(), name, page) < 0) throw Raised{};
    return kept.release();
  });
}

template <class T>
void put_sized(std::string& out, std::string_view data) {
  pack(out, static_cast<T>(data.size()));
  out += data;
}

// encode_outbox(dirty: dict of key -> sequence of names, outputs) -> bytes
inline PyObject* encode_outbox(PyObject*, Arguments args, Py_ssize_t n) {
  return guarded([&] {
    expect(n, 2, 2);
    if (!PyDict_Check(args[0])) raise(PyExc_TypeError, "dirty keys are a dict");
    std::string out("\x01", 1);
    pack(out, static_cast<u32>(PyDict_Size(args[0])));
    PyObject *key, *names;
    for (Py_ssize_t at = 0; PyDict_Next(args[0], &at, &key, &names);) {
      put_sized<u16>(out, text(key));
      Ref fast(checked(PySequence_Fast(names, "names are a sequence")));
      const Py_ssize_t n_names = PySequence_Fast_GET_SIZE(fast.get());
      pack(out, static_cast<u16>(n_names));
      for (Py_ssize_t each = 0; each < n_names; ++each)
        put_sized<u16>(out, bytes_of(PySequence_Fast_GET_ITEM(fast.get(), each)));
    }
    Ref outputs(checked(PySequence_Fast(args[1], "outputs are a sequence")));
    const Py_ssize_t n_outputs = PySequence_Fast_GET_SIZE(outputs.get());
    pack(out, static_cast<u32>(n_outputs));
    for (Py_ssize_t at = 0; at < n_outputs; ++at) {
      PyObject* output = PySequence_Fast_GET_ITEM(outputs.get(), at);
      if (!PyTuple_Check(output) || PyTuple_GET_SIZE(output) != 5) raise(PyExc_TypeError, "an output has five parts");
      PyObject *key_ = PyTuple_GET_ITEM(output, 2), *headers = PyTuple_GET_ITEM(output, 4);
      put_sized<u8>(out, text(PyTuple_GET_ITEM(output, 0)));
      pack(out, static_cast<std::int32_t>(integer(PyTuple_GET_ITEM(output, 1))));
      const std::string_view named = key_ == Py_None ? std::string_view() : bytes_of(key_);
      pack(out, key_ == Py_None ? std::int32_t{-1} : static_cast<std::int32_t>(named.size()));
      out += named;
      put_sized<u32>(out, bytes_of(PyTuple_GET_ITEM(output, 3)));
      Ref pairs(checked(PySequence_Fast(headers, "headers are a sequence")));
      const Py_ssize_t n_pairs = PySequence_Fast_GET_SIZE(pairs.get());
      pack(out, static_cast<u8>(n_pairs));
      for (Py_ssize_t each = 0; each < n_pairs; ++each) {
        PyObject *name, *data;
        if (!PyArg_ParseTuple(PySequence_Fast_GET_ITEM(pairs.get(), each), "OO", &name, &data)) throw Raised{};
        put_sized<u8>(out, text(name));
        put_sized<u16>(out, bytes_of(data));
      }
    }
    return py_bytes(out).release();
  });
}

}  // namespace lr
