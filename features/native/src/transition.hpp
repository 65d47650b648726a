// One event on a user: the same steps as features/state/user.py, which says what they mean. What is rare (label rows,
// statistics, abandonment) is done there.
#pragma once

#include "columns.hpp"
#include "dedup.hpp"
#include "exposures.hpp"
#include "items.hpp"
#include "pairs.hpp"
#include "seen.hpp"
#include "session.hpp"
#include "sink.hpp"
#include "tiles.hpp"

namespace lr {

constexpr i64 kKinds = 64;

// Rules that Python's modules hold; filled when the module is made.
struct Rules {
  int outcome_bits[kKinds];  // of types that do not depend on a value
  bool choice[kKinds];
  std::vector<double> expected;  // clicks, by position from 1
  u8 clicked, consumed, dismissed;
};
inline Rules rules{};

inline void import_rules() {
  auto found = [](const char* module, const char* name) {
    Ref loaded(checked(PyImport_ImportModule(module)));
    return attribute(loaded.get(), name);
  };
  Ref bits = found("features.state.exposure", "outcome_bits"), choices = found("features.state.trend", "CHOICES");
  for (i64 kind = 0; kind < kKinds; ++kind) {
    Ref number_ = py(kind), value(checked(PyFloat_FromDouble(0.0)));
    PyObject* args[] = {number_.get(), value.get()};
    rules.outcome_bits[kind] =
        static_cast<int>(integer(Ref(checked(PyObject_Vectorcall(bits.get(), args, 2, nullptr))).get()));
    const int contained = PySequence_Contains(choices.get(), number_.get());
    if (contained < 0) throw Raised{};
    rules.choice[kind] = contained;
  }
  Ref clicks = found("features.state.params", "EXPECTED_CLICKS");
  for (Py_ssize_t at = 0; at < PyTuple_GET_SIZE(clicks.get()); ++at)
    rules.expected.push_back(number(PyTuple_GET_ITEM(clicks.get(), at)));
  rules.clicked = static_cast<u8>(integer(found("features.state.seen", "CLICKED").get()));
  rules.consumed = static_cast<u8>(integer(found("features.state.seen", "CONSUMED").get()));
  rules.dismissed = static_cast<u8>(integer(found("features.state.seen", "DISMISSED").get()));
}

inline int outcome_bits(i64 kind, double value) {
  if (kind == kDwell) return polarity(kind, value) > 0 ? kDwellBit | kInteracted : kInteracted;
  if (kind == kRating) return polarity(kind, value) > 0 ? kLikeBit | kInteracted : kInteracted;
  return 0 <= kind && kind < kKinds ? rules.outcome_bits[kind] : 0;
}

inline double expected_clicks(i64 position) {
  return rules.expected[static_cast<size_t>(std::clamp<i64>(position, 1, static_cast<i64>(rules.expected.size()))) - 1];
}

// Weights of features.state.params.SignalWeights.
class Signals {
 public:
  explicit Signals(PyObject* weights) {
    constexpr std::pair<i64, const char*> kFixed[] = {{kClick, "click"}, {kLike, "like"}, {kSave, "save"},
        {kPurchase, "purchase"}, {kSkip, "skip"}, {kDismiss, "dismiss"}, {kThumbsDown, "thumbs_down"},
        {kNotInterested, "not_interested"}, {kAbandon, "abandon"}};
    for (const auto& [kind, name] : kFixed) fixed_[kind] = weight(weights, name);
    dwell_ = weight(weights, "dwell");
    short_dwell_ = weight(weights, "short_dwell");
    rating_ = weight(weights, "rating");
    survey_ = weight(weights, "survey");
  }

  double of(i64 kind, double value) const {
    if (kind == kDwell) return value >= bounds.long_dwell_s ? dwell_ : value < bounds.short_dwell_s ? short_dwell_ : 0.0;
    if (kind == kRating) return rating_ * part((value - bounds.middle_rating) / bounds.middle_rating);
    if (kind == kSurvey) return survey_ * part((value - 0.5) * 2.0);
    return 0 <= kind && kind < kKinds ? fixed_[kind] : 0.0;
  }

 private:
  static double weight(PyObject* weights, const char* name) { return number(attribute(weights, name).get()); }
  static double part(double value) { return std::max(-1.0, std::min(1.0, value)); }

  double fixed_[kKinds] = {};
  double dwell_, short_dwell_, rating_, survey_;
};

// Count a row in every tile of a list, which Python may change between two calls.
inline void count_all(PyObject* tiles, i64 ts_ms, Row row, double sign, std::optional<double> group) {
  for (Py_ssize_t at = 0; at < PyList_GET_SIZE(tiles); ++at) {
    PyObject* each = PyList_GET_ITEM(tiles, at);
    if (Py_TYPE(each) == type_of<RingTiles>)
      reinterpret_cast<Box<RingTiles>*>(each)->value->add_row(ts_ms, row, sign);
    else if (group)
      unbox<CategoryTiles>(each).add_row(ts_ms, row, sign, *group);
  }
}

class UserTransition {
 public:
  // UserTransition(history, seen, sessions, exposures, tiles, signals)
  UserTransition(Arguments args, Py_ssize_t n)
      : held_((expect(n, 6, 6), kept(args, 5))),
        history_(unbox<History>(args[0])),
        seen_(unbox<Seen>(args[1])),
        sessions_(unbox<Sessions>(args[2])),
        exposures_(unbox<Exposures>(args[3])),
        signals_(args[5]) {
    if (!PyList_Check(args[4])) raise(PyExc_TypeError, "tiles are a list");
  }

  // next_leaving_ms(after_ms, windows_ms, grain_ms) -> the earlier of history's and sessions', or None
  PyObject* next_leaving_ms(Arguments args, Py_ssize_t n) {
    expect(n, 3, 3);
    const i64 after_ms = integer(args[0]), grain_ms = integer(args[2]);
    const i64 one = history_.leaving(after_ms, args[1], grain_ms), other = sessions_.leaving(after_ms, args[1], grain_ms);
    const i64 due = one < 0 || (other >= 0 && other < one) ? other : one;
    if (due < 0) Py_RETURN_NONE;
    return PyLong_FromLongLong(due);
  }

  // observe(state, event: bytes, append_ts_ms, clock_ms, emit, sink) -> 1 repeat, 2 beyond the horizon, 0 counted, 4 and
  // the history changed. Any event but an exposure.
  PyObject* observe(Arguments args, Py_ssize_t n) {
    expect(n, 6, 6);
    const Calls calls{args[0], args[4], unbox<Sink>(args[5])};
    const i64 append_ts_ms = integer(args[2]), clock_ms = integer(args[3]);
    const Event event(bytes_of(args[1]));
    Dedup& dedup = part_of<Dedup>(calls.state, "dedup", dedup_);
    const i64 id = id_hash(event.id);
    if (int verdict = dedup.verdict(id, event.ts_ms, clock_ms)) return PyLong_FromLong(verdict);
    if (dedup.add_one(id, event.ts_ms, clock_ms) && dedup.bound()) pairs(calls).forget_until(*dedup.bound());
    const bool bot = dedup.bot(clock_ms);
    if (bot) calls.count("bot");
    Changes changes;
    exposures_.forget_until(clock_ms, changes);
    apply(changes, calls, bot);
    return PyLong_FromLong(act(event, append_ts_ms, clock_ms, calls, bot) ? 4 : 0);
  }

  // saw(exposure, slot, sign, emit, sink, bot)
  PyObject* saw(Arguments args, Py_ssize_t n) {
    expect(n, 6, 6);
    const Calls calls{nullptr, args[3], unbox<Sink>(args[4])};
    saw_one(unbox<Exposure>(args[0]), static_cast<size_t>(integer(args[1])), static_cast<int>(integer(args[2])), calls,
            PyObject_IsTrue(args[5]) == 1);
    Py_RETURN_NONE;
  }

 private:
  struct Event {
    std::string_view id, item, request_id, surface;
    i64 kind = 0, ts_ms = 0, position = 0;
    double value = 0.0;

    explicit Event(std::string_view packed) {
      for (Reader field(packed); field.next();) {
        if (field.wire == kDelimited) {
          if (field.field == 1) id = field.bytes;
          if (field.field == 5) item = field.bytes;
          if (field.field == 8) request_id = field.bytes;
          if (field.field == 10) surface = field.bytes;
        } else if (field.wire == kVarint) {
          if (field.field == 2) kind = static_cast<std::int32_t>(field.number);
          if (field.field == 6) ts_ms = static_cast<i64>(field.number);
          if (field.field == 9) position = static_cast<std::int32_t>(field.number);
        } else if (field.wire == kFixed64 && field.field == 7) {
          value = field.as_double();
        }
      }
    }
  };

  // What Python answers and does.
  struct Calls {
    PyObject *state, *emit;
    Sink& sink;

    void count(const char* what) const { Ref done(checked(PyObject_CallMethod(emit, "count", "s", what))); }
  };

  struct Item {
    i64 version = -1;
    u32 category = 0;
    std::optional<double> group;
  };

  static std::vector<Ref> kept(Arguments args, size_t n) {
    std::vector<Ref> all;
    for (size_t at = 0; at < n; ++at) all.push_back(Ref::borrowed(args[at]));
    return all;
  }

  PyObject* tiles() const { return held_[4].get(); }

  // A part that is decoded when it is first used.
  template <class T>
  static T& part_of(PyObject* state, const char* name, Ref& held) {
    if (!held) held = attribute(state, name);
    return unbox<T>(held.get());
  }

  Pairs& pairs(const Calls& calls) { return part_of<Pairs>(calls.state, "pairs", pairs_); }

  static Item item_at(const Calls& calls, std::string_view item_id, i64 append_ts_ms) {
    static PyObject* method = checked(PyUnicode_InternFromString("item"));
    Ref id = py_text_strict(item_id), at = py(append_ts_ms);
    PyObject* args[] = {calls.emit, id.get(), at.get()};
    Ref found(checked(PyObject_VectorcallMethod(method, args, 3, nullptr)));
    Item item;
    if (found.get() == Py_None) return item;
    item.version = int_attribute(found.get(), "version");
    Ref category = attribute(found.get(), "category");
    const std::string name(text(category.get()));
    if (name.empty()) return item;
    static std::unordered_map<std::string, std::pair<u32, double>> known;
    auto hashed = known.find(name);
    if (hashed == known.end()) {
      if (known.size() > 65'536) known.clear();
      hashed = known.emplace(name, std::pair(category_hash(name), text_hash(name))).first;
    }
    item.category = hashed->second.first;
    item.group = hashed->second.second;
    return item;
  }

  bool act(const Event& event, i64 append_ts_ms, i64 clock_ms, const Calls& calls, bool bot) {
    const bool on_item = !event.item.empty();
    const Item item = on_item ? item_at(calls, event.item, append_ts_ms) : Item{};
    const int sign = polarity(event.kind, event.value);
    const auto row = numeric_columns(event.kind, event.value, kNull);
    count_all(tiles(), event.ts_ms, {row.data(), row.size()}, 1.0, item.group);
    std::optional<Shown> shown;
    bool added = false;
    const i64 hashed = on_item ? id_hash(event.item) : 0;
    if (on_item) {
      const i64 sixteenths = static_cast<i64>(std::nearbyint(signals_.of(event.kind, event.value) * 16));
      if (sixteenths)
        added = history_.add_one({event.ts_ms, hashed, event.kind, sixteenths, item.version, item.category});
      if (event.kind == kImpression) {
        shown = Shown{event.ts_ms, std::string(event.item), append_ts_ms};
        seen_.mark_one(hashed, event.ts_ms);
      } else if (u8 what = act_of(event.kind, sign)) {
        seen_.act_one(hashed, what, event.ts_ms);
      }
    }
    const std::optional<i64> before = sessions_.start();
    const Sessions::Moves moved = sessions_.add_one(event.ts_ms, clock_ms, sign, event.kind == kClick,
                                                    event.kind == kSessionEnd, std::move(shown));
    bool changed = added;
    if (!moved.empty()) {
      Ref moves(Sessions::listed(moved));
      Ref any(checked(PyObject_CallMethod(calls.state, "abandon", "OOO", moves.get(), calls.emit, bot ? Py_True : Py_False)));
      changed |= PyObject_IsTrue(any.get()) == 1;
    }
    if (const auto start = sessions_.start(); start && (added || start != before)) {
      const auto [category, share] = history_.intent_since(*start);
      sessions_.intend(static_cast<u32>(category), share);
    }
    if (!on_item) return changed;
    if (int bits = outcome_bits(event.kind, event.value)) {
      Changes changes;
      exposures_.add_one(event.item, event.ts_ms, bits, event.request_id, event.position, changes);
      apply(changes, calls, bot);
    }
    if (bot) return changed;
    const double expected = event.kind == kImpression ? expected_clicks(event.position) : 0.0;
    calls.sink.add(event.item, packed_event(event.item, event.kind, event.ts_ms, event.value, 1.0, event.surface,
                                            expected, event.position));
    if (sign > 0 && paired(event.kind)) {
      std::string hashes, weights;
      for (const Pairing& each : pairs(calls).add_one({event.ts_ms, std::string(event.item), hashed})) {
        hashes.assign(reinterpret_cast<const char*>(each.others.data()), 8 * each.others.size());
        weights.assign(reinterpret_cast<const char*>(each.weights.data()), 8 * each.weights.size());
        calls.sink.add(each.item, packed_pairs(each.item, hashes, weights, each.ts_ms));
      }
    }
    return changed;
  }

  static u8 act_of(i64 kind, int sign) {
    switch (kind) {
      case kClick: return rules.clicked;
      case kLike: case kSave: case kPurchase: case kRating: return rules.consumed;
      case kDismiss: case kThumbsDown: case kNotInterested: return rules.dismissed;
      case kDwell: return sign > 0 ? rules.consumed : 0;
      default: return 0;
    }
  }

  static bool paired(i64 kind) {
    return kind == kClick || kind == kLike || kind == kSave || kind == kPurchase || kind == kRating;
  }

  void apply(const Changes& changes, const Calls& calls, bool bot) {
    for (const Change& each : changes.all) {
      if (each.kind == Change::kSeen) {
        saw_one(Exposures::of(each.exposure), each.slot, each.sign, calls, bot);
      } else {
        Ref object = each.object();
        Ref done(checked(PyObject_CallMethod(calls.state, "consequence", "OOO", object.get(), calls.emit,
                                             bot ? Py_True : Py_False)));
      }
    }
  }

  void saw_one(const Exposure& exposure, size_t slot, int sign, const Calls& calls, bool bot) {
    const std::string_view item_id = exposure.slots.at(slot).item;
    const i64 ts_ms = exposure.shown_ms, hashed = id_hash(item_id);
    if (sign > 0)
      seen_.mark_one(hashed, ts_ms);
    else
      seen_.unmark_one(hashed, ts_ms);
    const Item item = item_at(calls, item_id, exposure.append_ts_ms);
    static const auto row = numeric_columns(kImpression, 0.0, kNull);
    count_all(tiles(), ts_ms, {row.data(), row.size()}, sign, item.group);
    if (bot) return;
    const i64 position = static_cast<i64>(slot) + 1;
    calls.sink.add(item_id, packed_event(item_id, kImpression, ts_ms, 0.0, sign, exposure.surface(),
                                         expected_clicks(position), position));
  }

  std::vector<Ref> held_;
  History& history_;
  Seen& seen_;
  Sessions& sessions_;
  Exposures& exposures_;
  Signals signals_;
  Ref dedup_, pairs_;
};

}  // namespace lr
