// Effects on items as they lie in Kafka (protos/liverank/v1/stream.proto: ItemEffects), and numbers of outputs.
#pragma once

#include "proto.hpp"

namespace lr {

inline PyTypeObject event_effect_type, pairs_effect_type, effect_type;

// Field `event` of an ItemEffect.
inline std::string packed_event(std::string_view item_id, i64 type, i64 ts_ms, double value, double sign,
                                std::string_view surface, double expected, i64 position) {
  std::string event, out;
  put_text(event, 1, item_id);
  put_int(event, 2, type);
  put_int(event, 3, ts_ms);
  put_double(event, 4, value);
  put_double(event, 5, sign);
  put_text(event, 6, surface);
  put_double(event, 7, expected);
  put_int(event, 8, position);
  put_delimited(out, 4, event);
  return out;
}

// item_event(item_id, type, event_ts_ms, value, sign, surface, expected, position) -> field `event` of an ItemEffect
inline PyObject* item_event(PyObject*, Arguments args, Py_ssize_t n) {
  return guarded([&] {
    expect(n, 8, 8);
    return py_bytes(packed_event(text(args[0]), integer(args[1]), integer(args[2]), number(args[3]), number(args[4]),
                                 text(args[5]), number(args[6]), integer(args[7])))
        .release();
  });
}

// Field `pairs` of an ItemEffect; hashes and weights are packed.
inline std::string packed_pairs(std::string_view item_id, std::string_view hashes, std::string_view weights, i64 ts_ms) {
  std::string pairs, out;
  put_text(pairs, 1, item_id);
  put_text(pairs, 2, hashes);
  put_text(pairs, 3, weights);
  put_int(pairs, 4, ts_ms);
  put_delimited(out, 5, pairs);
  return out;
}

// item_pairs(item_id, other_hashes, weights, event_ts_ms) -> field `pairs` of an ItemEffect
inline PyObject* item_pairs(PyObject*, Arguments args, Py_ssize_t n) {
  return guarded([&] {
    expect(n, 4, 4);
    std::string hashes, weights;
    Ref others(checked(PySequence_Fast(args[1], "hashes are a sequence")));
    for (Py_ssize_t at = 0; at < PySequence_Fast_GET_SIZE(others.get()); ++at)
      pack(hashes, integer(PySequence_Fast_GET_ITEM(others.get(), at)));
    Ref all(checked(PySequence_Fast(args[2], "weights are a sequence")));
    for (Py_ssize_t at = 0; at < PySequence_Fast_GET_SIZE(all.get()); ++at)
      pack(weights, number(PySequence_Fast_GET_ITEM(all.get(), at)));
    return py_bytes(packed_pairs(text(args[0]), hashes, weights, integer(args[3]))).release();
  });
}

// One entry of ItemEffects.effects, its tag included.
inline std::string numbered_entry(i64 offset, i64 step, i64 index, std::string_view packed) {
  std::string effect, out;
  put_int(effect, 1, offset);
  put_int(effect, 2, step);
  put_int(effect, 3, index);
  effect += packed;
  put_delimited(out, 3, effect);
  return out;
}

// numbered_effect(offset, step, index, effect: bytes) -> one entry of ItemEffects.effects, its tag included
inline PyObject* numbered_effect(PyObject*, Arguments args, Py_ssize_t n) {
  return guarded([&] {
    expect(n, 4, 4);
    return py_bytes(numbered_entry(integer(args[0]), integer(args[1]), integer(args[2]), bytes_of(args[3]))).release();
  });
}

// numbered(generation, partition, offset, step, index, message: bytes) -> the message with its field `number` (1)
inline PyObject* numbered(PyObject*, Arguments args, Py_ssize_t n) {
  return guarded([&] {
    expect(n, 6, 6);
    std::string place, out;
    for (u32 field = 1; field <= 5; ++field) put_int(place, field, integer(args[field - 1]));
    put_delimited(out, 1, place);
    out += bytes_of(args[5]);
    return py_bytes(out).release();
  });
}

// user_change(user_id, newest_event_ts_ms, clock_ms) -> an encoded UserChange without its number
inline PyObject* user_change(PyObject*, Arguments args, Py_ssize_t n) {
  return guarded([&] {
    expect(n, 3, 3);
    std::string out;
    put_text(out, 2, text(args[0]));
    put_int(out, 3, integer(args[1]));
    put_int(out, 4, integer(args[2]));
    return py_bytes(out).release();
  });
}

inline Ref structured(PyTypeObject& type, std::initializer_list<Ref> fields) {
  Ref made(checked(PyStructSequence_New(&type)));
  Py_ssize_t at = 0;
  for (const Ref& each : fields) PyStructSequence_SetItem(made.get(), at++, Py_NewRef(each.get()));
  return made;
}

inline Ref floating(double value) { return Ref(checked(PyFloat_FromDouble(value))); }

inline Ref py_text_strict(std::string_view value) {
  return Ref(checked(PyUnicode_DecodeUTF8(value.data(), value.size(), "strict")));
}

inline Ref read_event(std::string_view packed) {
  std::string_view item, surface;
  i64 kind = 0, ts_ms = 0, position = 0;
  double value = 0.0, sign = 0.0, expected = 0.0;
  for (Reader field(packed); field.next();) {
    switch (field.field) {
      case 1: item = field.bytes; break;
      case 2: kind = static_cast<i64>(field.number); break;
      case 3: ts_ms = static_cast<i64>(field.number); break;
      case 4: value = field.as_double(); break;
      case 5: sign = field.as_double(); break;
      case 6: surface = field.bytes; break;
      case 7: expected = field.as_double(); break;
      case 8: position = static_cast<i64>(field.number); break;
      default: break;
    }
  }
  return structured(event_effect_type, {py_text_strict(item), py(kind), py(ts_ms), floating(value), floating(sign),
                                        py_text_strict(surface), floating(expected), py(position), py_text({}), py_text({})});
}

inline Ref read_pairs(std::string_view packed) {
  std::string_view item, hashes, weights;
  i64 ts_ms = 0;
  for (Reader field(packed); field.next();) {
    switch (field.field) {
      case 1: item = field.bytes; break;
      case 2: hashes = field.bytes; break;
      case 3: weights = field.bytes; break;
      case 4: ts_ms = static_cast<i64>(field.number); break;
      default: break;
    }
  }
  if (hashes.size() % 8 || weights.size() != hashes.size())
    raise(PyExc_ValueError, "pairs have one weight a partner");
  const size_t n = hashes.size() / 8;
  Ref others(checked(PyTuple_New(n))), all(checked(PyTuple_New(n)));
  for (size_t at = 0; at < n; ++at) {
    PyTuple_SET_ITEM(others.get(), at, py(load<i64>(&hashes[8 * at])).release());
    PyTuple_SET_ITEM(all.get(), at, floating(load<double>(&weights[8 * at])).release());
  }
  return structured(pairs_effect_type, {py_text_strict(item), others, all, py(ts_ms)});
}

// read_effects(ItemEffects: bytes) -> (generation, source_partition, [effect], control bytes or None)
inline PyObject* read_effects(PyObject*, Arguments args, Py_ssize_t n) {
  return guarded([&]() -> PyObject* {
    expect(n, 1, 1);
    i64 generation = 0, source = 0;
    Ref effects(checked(PyList_New(0))), control = Ref::borrowed(Py_None);
    for (Reader record(bytes_of(args[0])); record.next();) {
      if (record.field == 1) generation = static_cast<i64>(record.number);
      if (record.field == 2) source = static_cast<i64>(record.number);
      if (record.field == 4) control = py_bytes(record.bytes);
      if (record.field != 3) continue;
      i64 offset = 0, step = 0, index = 0;
      u32 kind = 0;
      Ref body = Ref::borrowed(Py_None);
      for (Reader effect(record.bytes); effect.next();) {
        switch (effect.field) {
          case 1: offset = static_cast<i64>(effect.number); break;
          case 2: step = static_cast<i64>(effect.number); break;
          case 3: index = static_cast<i64>(effect.number); break;
          case 4: body = read_event(effect.bytes); kind = 4; break;
          case 5: body = read_pairs(effect.bytes); kind = 5; break;
          case 6: body = py(static_cast<i64>(effect.number)); kind = 6; break;
          case 7: body = py_bytes(effect.bytes); kind = 7; break;
          default: break;
        }
      }
      append(effects.get(), structured(effect_type, {py(offset), py(step), py(index), py(kind), body}));
    }
    Ref a = py(generation), b = py(source);
    return checked(PyTuple_Pack(4, a.get(), b.get(), effects.get(), control.get()));
  });
}

inline void make_effect_types(PyObject* module) {
  static PyStructSequence_Field event_fields[] = {{"item_id", nullptr}, {"type", nullptr}, {"event_ts_ms", nullptr},
      {"value", nullptr}, {"sign", nullptr}, {"surface", nullptr}, {"expected", nullptr}, {"position", nullptr},
      {"user_id", nullptr}, {"session_id", nullptr}, {nullptr, nullptr}};
  static PyStructSequence_Field pairs_fields[] = {{"item_id", nullptr}, {"other_hashes", nullptr}, {"weights", nullptr},
      {"event_ts_ms", nullptr}, {nullptr, nullptr}};
  static PyStructSequence_Field effect_fields[] = {{"offset", nullptr}, {"step", nullptr}, {"place", nullptr},
      {"kind", nullptr}, {"body", nullptr}, {nullptr, nullptr}};
  static PyStructSequence_Desc descriptions[] = {
      {"features.native.core.EventEffect", "An event on an item.", event_fields, 10},
      {"features.native.core.PairsEffect", "Items that one item met.", pairs_fields, 4},
      {"features.native.core.Effect", "One numbered effect.", effect_fields, 5}};
  PyTypeObject* types[] = {&event_effect_type, &pairs_effect_type, &effect_type};
  const char* names[] = {"EventEffect", "PairsEffect", "Effect"};
  for (int at = 0; at < 3; ++at) {
    if (PyStructSequence_InitType2(types[at], &descriptions[at]) < 0) throw Raised{};
    if (PyModule_AddObjectRef(module, names[at], reinterpret_cast<PyObject*>(types[at])) < 0) throw Raised{};
  }
}

}  // namespace lr
