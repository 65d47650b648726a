// One event on a user, one due action: the same steps as features/state/user.py, which says what they mean. Slates with
// variants are left to it, and so are statistics beside the shared sums.
#pragma once

#include "columns.hpp"
#include "contract.hpp"
#include "dedup.hpp"
#include "exposures.hpp"
#include "items.hpp"
#include "lead.hpp"
#include "pairs.hpp"
#include "rules.hpp"
#include "seen.hpp"
#include "session.hpp"
#include "sink.hpp"

namespace lr {

class UserLane;

class UserTransition {
 public:
  enum { kCounted = 0, kRepeat = 1, kBeyond = 2, kChanged = 4, kLeft = 8 };

  // UserTransition(user_id, history, seen, sessions, exposures, lead, tiles, params, windows_ms)
  UserTransition(Arguments args, Py_ssize_t n)
      : held_((expect(n, 9, 9), kept(args, 9))),
        user_id_(text(args[0])),
        history_(unbox<History>(args[1])),
        seen_(unbox<Seen>(args[2])),
        sessions_(unbox<Sessions>(args[3])),
        exposures_(unbox<Exposures>(args[4])),
        lead_(unbox<Lead>(args[5])),
        params_(Params::of(args[7])) {
    if (!PyList_Check(args[6])) raise(PyExc_TypeError, "tiles are a list");
    if (!PyTuple_Check(args[8])) raise(PyExc_TypeError, "windows are a tuple");
  }

  // due_ms() -> when on_due is wanted next, or None
  PyObject* due_ms(Arguments, Py_ssize_t) {
    const i64 found = due();
    if (found == Sessions::kNotDue) Py_RETURN_NONE;
    return PyLong_FromLongLong(found);
  }

  // Sessions::kNotDue = never.
  i64 due() {
    i64 found = sessions_.due();
    if (exposures_.size()) found = std::min(found, exposures_.due());
    const i64 leaves_ms = leaving();
    return leaves_ms == Lead::kNoLeaving ? found : std::min(found, leaves_ms);
  }

  // on_due(state, due_ms, emit, sink) -> whether the history, or what of it lies in a window, changed
  PyObject* on_due(Arguments args, Py_ssize_t n) {
    expect(n, 4, 4);
    return PyBool_FromLong(do_due(integer(args[1]), {args[0], args[2], unbox<Sink>(args[3])}));
  }

  // observe(state, event: bytes, append_ts_ms, clock_ms, emit, sink) -> 1 repeat, 2 beyond the horizon, 8 left to
  // Python, 0 counted, 4 and the history changed.
  PyObject* observe(Arguments args, Py_ssize_t n) {
    expect(n, 6, 6);
    const Calls calls{args[0], args[4], unbox<Sink>(args[5])};
    return PyLong_FromLong(observe_one(bytes_of(args[1]), integer(args[2]), integer(args[3]), calls));
  }

  // saw(exposure, slot, sign, emit, sink, bot)
  PyObject* saw(Arguments args, Py_ssize_t n) {
    expect(n, 6, 6);
    const Calls calls{nullptr, args[3], unbox<Sink>(args[4])};
    saw_one(unbox<Exposure>(args[0]), static_cast<size_t>(integer(args[1])), static_cast<int>(integer(args[2])), calls,
            PyObject_IsTrue(args[5]) == 1);
    Py_RETURN_NONE;
  }

  struct Event {
    std::string_view id, user, session, item, request_id, surface;
    i64 kind = 0, ts_ms = 0, position = 0;
    double value = 0.0;

    explicit Event(std::string_view packed) {
      for (Reader field(packed); field.next();) {
        if (field.wire == kDelimited) {
          if (field.field == 1) id = field.bytes;
          if (field.field == 3) user = field.bytes;
          if (field.field == 4) session = field.bytes;
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

    bool ascii_texts() const {
      return ascii(id) && ascii(user) && ascii(session) && ascii(item) && ascii(request_id) && ascii(surface);
    }
  };

  // What Python answers and does; with a lane (lane.hpp), what that does for it.
  struct Calls {
    PyObject *state, *emit;
    Sink& sink;
    UserLane* lane = nullptr;

    void count(const char* what) const;
    // Statistics that the lane takes; false: they are Python's.
    bool shown(const Exposure& exposure) const;
    bool outcome(const Change& change) const;
    void example(const Exposure& exposure, size_t slot, std::string_view user_id, i64 closed_ts_ms, bool correction,
                 const double* rewards) const;
  };

  // kCounted = new, kRepeat or kBeyond.
  int verdict(const Calls& calls, i64 id, i64 ts_ms, i64 clock_ms) {
    return part_of<Dedup>(calls.state, "dedup", dedup_).verdict(id, ts_ms, clock_ms);
  }

  int observe_one(std::string_view packed, i64 append_ts_ms, i64 clock_ms, const Calls& calls) {
    const Event event(packed);
    if (event.kind == kExposure && !canonical_exposure(packed)) return kLeft;
    const i64 id = id_hash(event.id);
    const int found = verdict(calls, id, event.ts_ms, clock_ms);
    return found ? found : fold(event, id, packed, append_ts_ms, clock_ms, calls);
  }

  // An event that is new.
  int fold(const Event& event, i64 id, std::string_view packed, i64 append_ts_ms, i64 clock_ms, const Calls& calls) {
    const bool exposure = event.kind == kExposure;
    Dedup& dedup = part_of<Dedup>(calls.state, "dedup", dedup_);
    if (dedup.add_one(id, event.ts_ms, clock_ms) && dedup.bound()) pairs(calls).forget_until(*dedup.bound());
    const bool bot = dedup.bot(clock_ms);
    if (bot) calls.count("bot");
    Changes changes;
    exposures_.forget_until(clock_ms, changes);
    apply(changes, calls, bot);
    if (event.ts_ms > lead_.newest_event_ts_ms) lead_.newest_event_ts_ms = event.ts_ms;
    const bool changed = exposure ? show(packed, event, append_ts_ms, clock_ms, calls, bot)
                                  : act(event, append_ts_ms, clock_ms, calls, bot);
    if (changed) lead_.leaving_ms = Lead::kUnknown;
    const i64 n_ids = dedup.size();
    if (exposure || n_ids > rules.usual_ids) {
      changes.all.clear();
      exposures_.shrink_to(static_cast<size_t>(room(n_ids)), changes);
      apply(changes, calls, dedup.bot(clock_ms));
    }
    return changed ? kChanged : kCounted;
  }

  bool do_due(i64 due_ms, const Calls& calls) {
    const bool bot = part_of<Dedup>(calls.state, "dedup", dedup_).bot(due_ms);
    Changes changes;
    if (exposures_.size() && exposures_.due() <= due_ms)
      exposures_.close_until(due_ms, changes);
    else
      exposures_.forget_until(due_ms, changes);
    apply(changes, calls, bot);
    bool changed = sessions_.due() <= due_ms && abandon(sessions_.close_until(due_ms), calls, bot);
    const i64 leaves_ms = leaving();
    if (leaves_ms != Lead::kNoLeaving && leaves_ms <= due_ms) {
      lead_.composition_ms = due_ms;
      lead_.leaving_ms = Lead::kUnknown;
      changed = true;
    }
    return changed;
  }

  std::string_view user_id() const { return user_id_; }
  const Lead& lead() const { return lead_; }

 private:
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

  PyObject* tiles() const { return held_[6].get(); }

  // A part that is decoded when it is first used.
  template <class T>
  static T& part_of(PyObject* state, const char* name, Ref& held) {
    if (!held) held = attribute(state, name);
    return unbox<T>(held.get());
  }

  Pairs& pairs(const Calls& calls) { return part_of<Pairs>(calls.state, "pairs", pairs_); }

  static Item item_at(const Calls& calls, std::string_view item_id, i64 hashed, i64 append_ts_ms) {
    static PyObject* method = checked(PyUnicode_InternFromString("item"));
    if (calls.sink.knows_items()) return read_item(calls.sink.item(item_id, hashed, append_ts_ms));
    Ref id = py_text_strict(item_id), at = py(append_ts_ms);
    PyObject* args[] = {calls.emit, id.get(), at.get()};
    Ref found(checked(PyObject_VectorcallMethod(method, args, 3, nullptr)));
    return read_item(found.get() == Py_None ? nullptr : found.get());
  }

  // Of a features.item_version.CatalogueItem, a tuple.
  static Item read_item(PyObject* found) {
    Item item;
    if (found == nullptr) return item;
    if (!PyTuple_Check(found) || PyTuple_GET_SIZE(found) != 8) raise(PyExc_TypeError, "an item's version has eight fields");
    item.version = integer(PyTuple_GET_ITEM(found, 1));
    PyObject* categories = PyTuple_GET_ITEM(found, 3);
    if (PyTuple_GET_SIZE(categories) == 0) return item;
    const std::string name(text(PyTuple_GET_ITEM(categories, 0)));
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

  // -1 = nothing leaves a window.
  i64 leaving() {
    if (lead_.leaving_ms == Lead::kUnknown) {
      const i64 one = history_.leaving(lead_.composition_ms, held_[8].get(), params_->grain_ms);
      const i64 other = sessions_.leaving(lead_.composition_ms, held_[8].get(), params_->grain_ms);
      lead_.leaving_ms = one < 0 || (other >= 0 && other < one) ? other : one;
    }
    return lead_.leaving_ms;
  }

  static i64 room(i64 n_ids) {
    return std::max(rules.least_bytes, rules.most_bytes - rules.id_bytes * std::max<i64>(0, n_ids - rules.usual_ids));
  }

  void intend(const std::optional<i64>& before, bool added) {
    const auto start = sessions_.start();
    if (!start || !(added || start != before)) return;
    const auto [category, share] = history_.intent_since(*start);
    sessions_.intend(static_cast<u32>(category), share);
  }

  // A slate that was shown.
  bool show(std::string_view packed, const Event& event, i64 append_ts_ms, i64 clock_ms, const Calls& calls, bool bot) {
    Changes changes;
    Ref held = exposures_.place_one(packed, append_ts_ms, clock_ms,
                                    bot ? Exposures::kCountsNot : Exposures::kCountsIfDrawn, changes);
    const Exposure& exposure = Exposures::of(held);
    if (exposure.counts && !calls.shown(exposure))
      Ref done(checked(PyObject_CallMethod(calls.state, "enter", "OO", held.get(), calls.emit)));
    const std::optional<i64> before = sessions_.start();
    const Sessions::Moves moved = sessions_.add_one(event.ts_ms, clock_ms, 0, false, false,
                                                    Shown{event.ts_ms, std::string(exposure.slots.at(0).item), append_ts_ms});
    const bool changed = abandon(moved, calls, bot);
    intend(before, false);
    apply(changes, calls, bot);
    return changed;
  }

  // Count abandoned sessions, or take them back.
  bool abandon(const Sessions::Moves& moves, const Calls& calls, bool bot) {
    const i64 sixteenths = static_cast<i64>(std::nearbyint(params_->signals.of(kAbandon, 0.0) * 16));
    static const auto row = numeric_columns(kAbandon, 0.0, kNull);
    for (const auto& [sign, abandoned] : moves) {
      const i64 hashed = id_hash(abandoned.item);
      const Item item = item_at(calls, abandoned.item, hashed, abandoned.append_ts_ms);
      count_all(tiles(), abandoned.ts_ms, {row.data(), row.size()}, sign, item.group);
      std::optional<Entry> entry;
      if (sixteenths)
        entry = Entry{abandoned.ts_ms, hashed, kAbandon, sixteenths, item.version, item.category};
      sessions_.derive_one(sign, entry);
      if (!bot)
        calls.sink.add(abandoned.item, hashed, packed_event(abandoned.item, kAbandon, abandoned.ts_ms, 0.0, sign, {}, 0.0, 0));
    }
    if (!moves.empty()) lead_.leaving_ms = Lead::kUnknown;
    return !moves.empty();
  }

  bool act(const Event& event, i64 append_ts_ms, i64 clock_ms, const Calls& calls, bool bot) {
    const bool on_item = !event.item.empty();
    const i64 hashed = on_item ? id_hash(event.item) : 0;
    const Item item = on_item ? item_at(calls, event.item, hashed, append_ts_ms) : Item{};
    const int sign = polarity(event.kind, event.value);
    const auto row = numeric_columns(event.kind, event.value, kNull);
    count_all(tiles(), event.ts_ms, {row.data(), row.size()}, 1.0, item.group);
    std::optional<Shown> shown;
    bool added = false;
    if (on_item) {
      const i64 sixteenths = static_cast<i64>(std::nearbyint(params_->signals.of(event.kind, event.value) * 16));
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
    const bool changed = abandon(moved, calls, bot) || added;
    intend(before, added);
    if (!on_item) return changed;
    if (int bits = outcome_bits(event.kind, event.value)) {
      Changes changes;
      exposures_.add_one(event.item, event.ts_ms, bits, event.request_id, event.position, changes);
      apply(changes, calls, bot);
    }
    if (bot) return changed;
    const double expected = event.kind == kImpression ? expected_clicks(event.position) : 0.0;
    calls.sink.add(event.item, hashed, packed_event(event.item, event.kind, event.ts_ms, event.value, 1.0, event.surface,
                                                    expected, event.position));
    if (sign > 0 && paired(event.kind)) {
      std::string hashes, weights;
      for (const Pairing& each : pairs(calls).add_one({event.ts_ms, std::string(event.item), hashed})) {
        hashes.assign(reinterpret_cast<const char*>(each.others.data()), 8 * each.others.size());
        weights.assign(reinterpret_cast<const char*>(each.weights.data()), 8 * each.weights.size());
        calls.sink.add(each.item, each.hashed, packed_pairs(each.item, hashes, weights, each.ts_ms));
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
      } else if (each.kind == Change::kRow) {
        const Exposure& exposure = Exposures::of(each.exposure);
        calls.example(exposure, each.slot, user_id_, exposure.shown_ms + params_->window_ms, each.correction,
                      params_->rewards);
        if (each.correction) calls.count("correction");
      } else if (each.kind == Change::kCounted) {
        calls.count(each.name);
      } else if (!bot && !calls.outcome(each)) {
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
    const Item item = item_at(calls, item_id, hashed, exposure.append_ts_ms);
    static const auto row = numeric_columns(kImpression, 0.0, kNull);
    count_all(tiles(), ts_ms, {row.data(), row.size()}, sign, item.group);
    if (bot) return;
    const i64 position = static_cast<i64>(slot) + 1;
    calls.sink.add(item_id, hashed, packed_event(item_id, kImpression, ts_ms, 0.0, sign, exposure.surface(),
                                                 expected_clicks(position), position));
  }

  std::vector<Ref> held_;
  const std::string user_id_;
  History& history_;
  Seen& seen_;
  Sessions& sessions_;
  Exposures& exposures_;
  Lead& lead_;
  const std::shared_ptr<const Params> params_;
  Ref dedup_, pairs_;
};

}  // namespace lr
