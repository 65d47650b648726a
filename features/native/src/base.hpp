// What every part shares: errors across the border to Python, arguments, stored fields, pages.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

static_assert(std::endian::native == std::endian::little, "liverank's pages are little-endian");

namespace lr {

using i64 = std::int64_t;
using u64 = std::uint64_t;
using u32 = std::uint32_t;
using u16 = std::uint16_t;
using u8 = std::uint8_t;

// Thrown once a Python error is set.
struct Raised {};

inline PyObject* checked(PyObject* object) {
  if (object == nullptr) throw Raised{};
  return object;
}

[[noreturn]] inline void raise(PyObject* type, const std::string& text) {
  PyErr_SetString(type, text.c_str());
  throw Raised{};
}

// An owned reference.
class Ref {
 public:
  Ref() = default;
  explicit Ref(PyObject* owned) : object_(owned) {}
  Ref(const Ref& other) : object_(Py_XNewRef(other.object_)) {}
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Ref& operator=(Ref other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Ref() { Py_XDECREF(object_); }
  static Ref borrowed(PyObject* object) { return Ref(Py_XNewRef(object)); }
  PyObject* get() const { return object_; }
  PyObject* release() { return std::exchange(object_, nullptr); }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  PyObject* object_ = nullptr;
};

inline i64 integer(PyObject* object) {
  i64 value = PyLong_AsLongLong(object);
  if (value == -1 && PyErr_Occurred()) throw Raised{};
  return value;
}

inline double number(PyObject* object) {
  double value = PyFloat_CheckExact(object) ? PyFloat_AS_DOUBLE(object) : PyFloat_AsDouble(object);
  if (value == -1.0 && PyErr_Occurred()) throw Raised{};
  return value;
}

inline std::string_view text(PyObject* object) {
  Py_ssize_t size;
  const char* data = PyUnicode_AsUTF8AndSize(object, &size);
  if (data == nullptr) throw Raised{};
  return {data, static_cast<size_t>(size)};
}

inline std::string_view bytes_of(PyObject* object) {
  char* data;
  Py_ssize_t size;
  if (PyBytes_AsStringAndSize(object, &data, &size) < 0) throw Raised{};
  return {data, static_cast<size_t>(size)};
}

inline Ref attribute(PyObject* object, const char* name) { return Ref(checked(PyObject_GetAttrString(object, name))); }

inline i64 int_attribute(PyObject* object, const char* name) { return integer(attribute(object, name).get()); }

inline Ref py(i64 value) { return Ref(checked(PyLong_FromLongLong(value))); }
inline Ref py_text(std::string_view value) { return Ref(checked(PyUnicode_FromStringAndSize(value.data(), value.size()))); }
inline Ref py_bytes(std::string_view value) { return Ref(checked(PyBytes_FromStringAndSize(value.data(), value.size()))); }

inline void put(PyObject* dict, PyObject* name, const Ref& value) {
  if (PyDict_SetItem(dict, name, value.get()) < 0) throw Raised{};
}

inline void append(PyObject* list, const Ref& value) {
  if (PyList_Append(list, value.get()) < 0) throw Raised{};
}

// What the parts take from Python's side; filled when the module is made.
struct Imported {
  PyObject* body;       // features.state.pages.body: raises for a page that cannot be read
  PyObject* tile_page;  // features.tiles.check_page
  PyObject* packed_page;  // features.tiles.check_packed
  PyObject* shown;      // features.state.session.Shown
  PyObject* entry;      // features.state.history.Entry
  PyObject* good;       // features.state.pairs.Good
  PyObject* pairing;    // features.state.pairs.Pairing
  PyObject* verdicts[3];
  PyObject* format_error;  // features.errors.StateFormatError
  PyObject* row_error;     // features.errors.RowFormatError
};
inline Imported imported{};

// Stored fields of one key: a dict, kept; pages are decoded when first used.
class Fields {
 public:
  explicit Fields(PyObject* mapping) {
    if (PyDict_CheckExact(mapping)) {
      dict_ = Ref::borrowed(mapping);
    } else {
      dict_ = Ref(checked(PyDict_New()));
      if (PyDict_Update(dict_.get(), mapping) < 0) throw Raised{};
    }
  }

  // The whole page, empty where there is none.
  std::string_view raw(PyObject* name) const {
    PyObject* found = PyDict_GetItemWithError(dict_.get(), name);
    if (found == nullptr) {
      if (PyErr_Occurred()) throw Raised{};
      return {};
    }
    if (found == Py_None) return {};
    return bytes_of(found);
  }

  // The entries of a page, checked.
  std::string_view body(PyObject* name, size_t size = 1, i64 version = 1) const {
    std::string_view page = raw(name);
    if (page.empty()) return {};
    if (page[0] != version || (page.size() - 1) % size) {
      Ref stored = py_bytes(page);
      Ref width = py(static_cast<i64>(size));
      Ref wanted = py(version);
      PyObject* arguments[] = {name, stored.get(), width.get(), wanted.get()};
      Ref unread(checked(PyObject_Vectorcall(imported.body, arguments, 4, nullptr)));
    }
    return page.substr(1);
  }

 private:
  Ref dict_;
};

inline Ref page_bytes(std::string_view entries, char version = 1) {
  PyObject* page = checked(PyBytes_FromStringAndSize(nullptr, entries.size() + 1));
  char* data = PyBytes_AS_STRING(page);
  data[0] = version;
  std::memcpy(data + 1, entries.data(), entries.size());
  return Ref(page);
}

inline Ref page_or_nothing(std::string_view entries, char version = 1) {
  return entries.empty() ? py_bytes({}) : page_bytes(entries, version);
}

template <class T>
T load(const char* data) {
  T value;
  std::memcpy(&value, data, sizeof(T));
  return value;
}

template <class T>
void pack(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

inline i64 floor_div(i64 a, i64 b) {
  i64 quotient = a / b;
  return (a % b != 0 && (a < 0) != (b < 0)) ? quotient - 1 : quotient;
}

inline i64 floor_mod(i64 a, i64 b) { return a - floor_div(a, b) * b; }

// Names of numbered fields, made once: b"_d0", b"_d1", ...
class Names {
 public:
  explicit Names(const char* prefix) : prefix_(prefix) {}
  PyObject* operator[](size_t number) {
    while (names_.size() <= number) {
      std::string name = prefix_ + std::to_string(names_.size());
      names_.push_back(checked(PyBytes_FromStringAndSize(name.data(), name.size())));
    }
    return names_[number];
  }

 private:
  std::string prefix_;
  std::vector<PyObject*> names_;
};

// -- Python types of C++ classes

template <class T>
struct Box {
  PyObject_HEAD
  T* value;
};

template <class F>
PyObject* guarded(F call) {
  try {
    return call();
  } catch (const Raised&) {
    return nullptr;
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
}

using Arguments = PyObject* const*;

inline void expect(Py_ssize_t got, Py_ssize_t least, Py_ssize_t most) {
  if (got < least || got > most) raise(PyExc_TypeError, "wrong number of arguments: " + std::to_string(got));
}

template <class T>
PyObject* box_new(PyTypeObject* type, PyObject* args, PyObject*) {
  return guarded([&]() -> PyObject* {
    Ref self(checked(type->tp_alloc(type, 0)));
    reinterpret_cast<Box<T>*>(self.get())->value =
        new T(reinterpret_cast<PyTupleObject*>(args)->ob_item, PyTuple_GET_SIZE(args));
    return self.release();
  });
}

template <class T>
void box_free(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  delete reinterpret_cast<Box<T>*>(self)->value;
  type->tp_free(self);
  Py_DECREF(type);
}

template <class T, PyObject* (T::*Method)(Arguments, Py_ssize_t)>
PyObject* call(PyObject* self, PyObject* const* args, Py_ssize_t n) {
  return guarded([&] { return (reinterpret_cast<Box<T>*>(self)->value->*Method)(args, n); });
}

template <class T, PyObject* (T::*Getter)()>
PyObject* get(PyObject* self, void*) {
  return guarded([&] { return (reinterpret_cast<Box<T>*>(self)->value->*Getter)(); });
}

template <class T, auto Method>
constexpr PyMethodDef method(const char* name) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&call<T, Method>)), METH_FASTCALL, nullptr};
}

// Parts of state hand out what changed: each on its own, or many into one dict.
template <class T>
void gather(PyObject* part, PyObject* changed) {
  reinterpret_cast<Box<T>*>(part)->value->gather(changed);
}

using Gather = void (*)(PyObject*, PyObject*);
inline std::vector<std::pair<PyTypeObject*, Gather>> gatherers;

template <class T>
PyObject* dirty(PyObject* self, PyObject* const*, Py_ssize_t) {
  return guarded([&] {
    Ref changed(checked(PyDict_New()));
    gather<T>(self, changed.get());
    return changed.release();
  });
}

template <class T>
constexpr PyMethodDef dirty_method() {
  return {"dirty", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&dirty<T>)), METH_FASTCALL, nullptr};
}

// collect(parts) -> what changed in all of them, as one dict
inline PyObject* collect(PyObject*, PyObject* const* args, Py_ssize_t n) {
  return guarded([&] {
    expect(n, 1, 1);
    Ref parts(checked(PySequence_Fast(args[0], "parts are a sequence")));
    Ref changed(checked(PyDict_New()));
    for (Py_ssize_t at = 0; at < PySequence_Fast_GET_SIZE(parts.get()); ++at) {
      PyObject* part = PySequence_Fast_GET_ITEM(parts.get(), at);
      auto found = std::find_if(gatherers.begin(), gatherers.end(),
                                [&](const auto& each) { return each.first == Py_TYPE(part); });
      if (found != gatherers.end()) {
        found->second(part, changed.get());
      } else {
        Ref own(checked(PyObject_CallMethod(part, "dirty", nullptr)));
        if (PyDict_Update(changed.get(), own.get()) < 0) throw Raised{};
      }
    }
    return changed.release();
  });
}

// The Python type of a C++ class, once it is made.
template <class T>
inline PyTypeObject* type_of = nullptr;

// What is in a box.
template <class T>
T& unbox(PyObject* object) {
  if (Py_TYPE(object) != type_of<T>) raise(PyExc_TypeError, std::string("got a ") + Py_TYPE(object)->tp_name);
  return *reinterpret_cast<Box<T>*>(object)->value;
}

template <class T, i64 T::* Field>
PyObject* get_int(PyObject* self, void*) {
  return PyLong_FromLongLong(reinterpret_cast<Box<T>*>(self)->value->*Field);
}

template <class T, i64 T::* Field>
int set_int(PyObject* self, PyObject* value, void*) {
  const i64 given = value == nullptr ? 0 : PyLong_AsLongLong(value);
  if (PyErr_Occurred()) return -1;
  reinterpret_cast<Box<T>*>(self)->value->*Field = given;
  return 0;
}

// A number that Python reads and writes.
template <class T, i64 T::* Field>
constexpr PyGetSetDef variable(const char* name) {
  return {name, &get_int<T, Field>, &set_int<T, Field>, nullptr, nullptr};
}

template <class T, auto Getter>
constexpr PyGetSetDef property(const char* name) {
  return {name, &get<T, Getter>, nullptr, nullptr, nullptr};
}

template <class T>
void add_type(PyObject* module, const char* name, PyMethodDef* methods, PyGetSetDef* getters = nullptr,
              lenfunc length = nullptr) {
  std::vector<PyType_Slot> slots = {
      {Py_tp_new, reinterpret_cast<void*>(&box_new<T>)},
      {Py_tp_dealloc, reinterpret_cast<void*>(&box_free<T>)},
      {Py_tp_methods, methods},
  };
  if (getters != nullptr) slots.push_back({Py_tp_getset, getters});
  if (length != nullptr) slots.push_back({Py_sq_length, reinterpret_cast<void*>(length)});
  slots.push_back({0, nullptr});
  static std::string full;
  full = std::string("features.native.core.") + name;
  PyType_Spec spec = {strdup(full.c_str()), sizeof(Box<T>), 0, Py_TPFLAGS_DEFAULT, slots.data()};
  Ref type(checked(PyType_FromSpec(&spec)));
  if (PyModule_AddObjectRef(module, name, type.get()) < 0) throw Raised{};
  type_of<T> = reinterpret_cast<PyTypeObject*>(type.get());
  Py_INCREF(type.get());
  if constexpr (requires(T& part) { part.gather(module); })
    gatherers.emplace_back(reinterpret_cast<PyTypeObject*>(type.get()), &gather<T>);
}

}  // namespace lr
