// Effects on items: the same steps as features/state/item.py and streams/items.py, which say what they mean.
#pragma once

#include "transition.hpp"

namespace lr {

constexpr i64 kVariant = 54;

class ItemTransition {
 public:
  // ItemTransition(tiles, trend, surfaces, signals)
  ItemTransition(Arguments args, Py_ssize_t n)
      : tiles_((expect(n, 4, 4), Ref::borrowed(args[0]))), trend_object_(Ref::borrowed(args[1])),
        surfaces_object_(Ref::borrowed(args[2])), trend_(unbox<Trend>(args[1])),
        surfaces_(unbox<SurfaceCounts>(args[2])), signals_(args[3]) {
    if (!PyList_Check(args[0])) raise(PyExc_TypeError, "tiles are a list");
  }

  // observe(effect: EventEffect) of any type but a variant
  PyObject* observe(Arguments args, Py_ssize_t n) {
    expect(n, 1, 1);
    if (Py_TYPE(args[0]) != &event_effect_type) raise(PyExc_TypeError, "an effect is an EventEffect");
    auto field = [&](Py_ssize_t at) { return PyStructSequence_GET_ITEM(args[0], at); };
    count(integer(field(1)), integer(field(2)), number(field(3)), number(field(4)), text(field(5)), number(field(6)));
    Py_RETURN_NONE;
  }

  void count(i64 kind, i64 ts_ms, double value, double sign, std::string_view surface, double likely_clicks) {
    const double expected = kind == kImpression ? likely_clicks : kNull;
    const auto row = numeric_columns(kind, value, expected);
    count_all(tiles_.get(), ts_ms, {row.data(), row.size()}, sign, std::nullopt);
    const double good = std::max(0.0, signals_.of(kind, value));
    const bool chosen = 0 <= kind && kind < kKinds && rules.choice[kind];
    const double likely = expected == expected ? expected : 0.0;
    if (good != 0.0 || likely != 0.0 || chosen)
      trend_.add_one(ts_ms, {sign * good, kind == kClick ? sign : 0.0, sign * likely, chosen ? sign : 0.0});
    if (likely != 0.0 || kind == kClick) surfaces_.add_one(surface, ts_ms, sign * likely, kind == kClick ? sign : 0.0);
  }

 private:
  Ref tiles_, trend_object_, surfaces_object_;
  Trend& trend_;
  SurfaceCounts& surfaces_;
  Signals signals_;
};

// A record of packed effects that holds no control record.
class EffectBatch {
 public:
  // EffectBatch(ItemEffects: bytes)
  EffectBatch(Arguments args, Py_ssize_t n) : packed_((expect(n, 1, 1), Ref::borrowed(args[0]))) {
    for (Reader record(bytes_of(args[0])); record.next();) {
      if (record.field == 1) generation_ = static_cast<i64>(record.number);
      if (record.field == 2) source_ = static_cast<i64>(record.number);
      if (record.field == 4) simple_ = false;
      if (record.field == 3) effects_.push_back(read(record.bytes));
    }
  }

  PyObject* simple() { return PyBool_FromLong(simple_); }
  PyObject* generation() { return PyLong_FromLongLong(generation_); }
  PyObject* source_partition() { return PyLong_FromLongLong(source_); }

  // Keys of the states that it touches, in the order of their first effect.
  PyObject* keys() {
    Ref all(checked(PyTuple_New(keys_.size())));
    for (size_t at = 0; at < keys_.size(); ++at) PyTuple_SET_ITEM(all.get(), at, Py_NewRef(keys_[at].get()));
    return all.release();
  }

  // apply(ctx, taken) -> the highest number, as (generation, offset, step, place). `taken`: the highest one yet.
  PyObject* apply(Arguments args, Py_ssize_t n) {
    expect(n, 2, 2);
    auto at = [&](Py_ssize_t field) { return integer(PyTuple_GET_ITEM(args[1], field)); };
    if (!PyTuple_Check(args[1]) || PyTuple_GET_SIZE(args[1]) != 4) raise(PyExc_TypeError, "a number has four parts");
    std::tuple<i64, i64, i64, i64> taken{at(0), at(1), at(2), at(3)};
    std::vector<Touched> touched(keys_.size());
    for (const Effect& effect : effects_) {
      const std::tuple<i64, i64, i64, i64> number{generation_, effect.offset, effect.step, effect.place};
      if (number <= taken) continue;
      taken = number;
      if (effect.kind == kClock) {
        Ref done(checked(PyObject_CallMethod(args[0], "source_clock", "LL", static_cast<long long>(source_),
                                             static_cast<long long>(effect.ts_ms))));
        continue;
      }
      Touched& item = touched[effect.key];
      if (!item.state) item.open(args[0], keys_[effect.key].get());
      item.newest_ms = std::max(item.newest_ms, effect.ts_ms);
      if (effect.kind == kPairs)
        item.neighbours().add_packed(effect.hashes, effect.weights, effect.ts_ms);
      else if (effect.type == kVariant || item.transition == nullptr)
        Ref done(checked(PyObject_CallMethod(item.state.get(), "observe", "(O)", read_event(effect.body).get())));
      else
        item.transition->count(effect.type, effect.ts_ms, effect.value, effect.sign, effect.surface, effect.expected);
    }
    for (const Touched& item : touched)
      if (item.state) Ref done(checked(PyObject_CallMethod(item.state.get(), "newer", "L", static_cast<long long>(item.newest_ms))));
    const auto& [a, b, c, d] = taken;
    return Py_BuildValue("LLLL", static_cast<long long>(a), static_cast<long long>(b), static_cast<long long>(c),
                         static_cast<long long>(d));
  }

 private:
  enum Kind { kNone = 0, kEvent = 4, kPairs = 5, kClock = 6, kControl = 7 };

  struct Effect {
    i64 offset = 0, step = 0, place = 0, type = 0, ts_ms = 0;
    Kind kind = kNone;
    double value = 0.0, sign = 0.0, expected = 0.0;
    size_t key = 0;
    std::string_view item, body, surface, hashes, weights;
  };

  // A state while the batch is applied.
  struct Touched {
    Ref state, held;
    ItemTransition* transition = nullptr;
    Neighbours* known = nullptr;
    i64 newest_ms = 0;

    void open(PyObject* ctx, PyObject* key) {
      static PyObject* method = checked(PyUnicode_InternFromString("state"));
      PyObject* args[] = {ctx, key};
      state = Ref(checked(PyObject_VectorcallMethod(method, args, 2, nullptr)));
      held = attribute(state.get(), "transition");
      if (held.get() != Py_None) transition = &unbox<ItemTransition>(held.get());
    }

    Neighbours& neighbours() {
      if (known == nullptr) known = &unbox<Neighbours>(attribute(state.get(), "neighbours").get());
      return *known;
    }
  };

  Effect read(std::string_view packed) {
    Effect effect;
    for (Reader field(packed); field.next();) {
      switch (field.field) {
        case 1: effect.offset = static_cast<i64>(field.number); break;
        case 2: effect.step = static_cast<i64>(field.number); break;
        case 3: effect.place = static_cast<i64>(field.number); break;
        case 4: effect.kind = kEvent; effect.body = field.bytes; break;
        case 5: effect.kind = kPairs; effect.body = field.bytes; break;
        case 6: effect.kind = kClock; effect.ts_ms = static_cast<i64>(field.number); break;
        case 7: effect.kind = kControl; break;
        default: break;
      }
    }
    if (effect.kind == kNone || effect.kind == kControl) simple_ = false;
    if (effect.kind == kEvent) read_event_of(effect);
    if (effect.kind == kPairs) read_pairs_of(effect);
    return effect;
  }

  void read_event_of(Effect& effect) {
    for (Reader field(effect.body); field.next();) {
      switch (field.field) {
        case 1: effect.item = field.bytes; break;
        case 2: effect.type = static_cast<i64>(field.number); break;
        case 3: effect.ts_ms = static_cast<i64>(field.number); break;
        case 4: effect.value = field.as_double(); break;
        case 5: effect.sign = field.as_double(); break;
        case 6: effect.surface = field.bytes; break;
        case 7: effect.expected = field.as_double(); break;
        default: break;
      }
    }
    effect.key = key_of(effect.item);
  }

  void read_pairs_of(Effect& effect) {
    for (Reader field(effect.body); field.next();) {
      switch (field.field) {
        case 1: effect.item = field.bytes; break;
        case 2: effect.hashes = field.bytes; break;
        case 3: effect.weights = field.bytes; break;
        case 4: effect.ts_ms = static_cast<i64>(field.number); break;
        default: break;
      }
    }
    if (effect.hashes.size() % 8 || effect.weights.size() != effect.hashes.size())
      raise(PyExc_ValueError, "pairs have one weight a partner");
    effect.key = key_of(effect.item);
  }

  // streams.rows.state_key
  size_t key_of(std::string_view item) {
    const auto [found, added] = places_.emplace(item, keys_.size());
    if (added) {
      std::string key(item);
      if (!key.empty() && (key[0] == '#' || key[0] == '\1')) key.insert(key.begin(), '\1');
      keys_.push_back(py_text_strict(key));
    }
    return found->second;
  }

  Ref packed_;
  i64 generation_ = 0, source_ = 0;
  bool simple_ = true;
  std::vector<Effect> effects_;
  std::unordered_map<std::string_view, size_t> places_;
  std::vector<Ref> keys_;
};

}  // namespace lr
