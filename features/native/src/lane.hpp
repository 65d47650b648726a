// Usual records of the user fold, many in one call: what streams/partition_fold.py and streams/users.py do with each of
// them, which say what it means. Every other record is left to them.
#pragma once

#include <map>

#include "dues.hpp"
#include "slates.hpp"
#include "transition.hpp"

namespace lr {

// A state in the cache with the due time that the index knows.
class CacheEntry {
 public:
  // CacheEntry(state, due_ms)
  CacheEntry(Arguments args, Py_ssize_t n)
      : due_ms((expect(n, 2, 2), due_of(args[1]))), state_(Ref::borrowed(args[0])) {
    PyObject* found = PyObject_GetAttrString(args[0], "_transition");
    if (found == nullptr) {
      if (!PyErr_ExceptionMatches(PyExc_AttributeError)) throw Raised{};
      PyErr_Clear();
      return;
    }
    held_ = Ref(found);
    if (Py_TYPE(found) == type_of<UserTransition>) user = &unbox<UserTransition>(found);
  }

  PyObject* state() { return Py_NewRef(state_.get()); }
  PyObject* state_object() const { return state_.get(); }
  PyObject* get_due_ms() { return due_object(due_ms).release(); }

  UserTransition* user = nullptr;  // of a user whose events native code folds
  i64 due_ms;
  u64 touched = 0;  // in which call of a lane

 private:
  Ref state_, held_;
};

inline int set_due_ms(PyObject* self, PyObject* value, void*) {
  try {
    reinterpret_cast<Box<CacheEntry>*>(self)->value->due_ms = due_of(value);
    return 0;
  } catch (const Raised&) {
    return -1;
  }
}

class UserLane {
 public:
  // UserLane(cache, due, sink, output type, generation, partition, wall, silent)
  UserLane(Arguments args, Py_ssize_t n)
      : cache_((expect(n, 8, 8), Ref::borrowed(args[0]))), due_object_(Ref::borrowed(args[1])),
        sink_object_(Ref::borrowed(args[2])), output_(Ref::borrowed(args[3])), due_(unbox<DueIndex>(args[1])),
        sink_(unbox<Sink>(args[2])), generation_(integer(args[4])), partition_(integer(args[5])),
        wall_(PyObject_IsTrue(args[6]) == 1), silent_(PyObject_IsTrue(args[7]) == 1) {
    if (!PyDict_Check(args[0])) raise(PyExc_TypeError, "the cache is a dict");
  }

  // scan(records, every, ahead_ms) -> (missing, left, watched)
  //
  // Look at records that come to `run` next: keys that are not in memory, indices of records that are certainly left to
  // Python, and of those others that whoever watches producers wants to see: of an offset that `every` divides, or of an
  // event more than `ahead_ms` ahead of its record.
  PyObject* scan(Arguments args, Py_ssize_t n) {
    expect(n, 3, 3);
    if (!PyList_Check(args[0])) raise(PyExc_TypeError, "records are a list");
    const i64 every = integer(args[1]), ahead_ms = integer(args[2]);
    const Py_ssize_t n_records = PyList_GET_SIZE(args[0]);
    scanned_ = Ref();
    keys_.assign(static_cast<size_t>(n_records), {});
    Ref missing(checked(PyDict_New())), left(checked(PyList_New(0))), watched(checked(PyList_New(0)));
    for (Py_ssize_t at = 0; at < n_records; ++at) {
      PyObject* record = PyList_GET_ITEM(args[0], at);
      Ref& key = keys_[static_cast<size_t>(at)];
      i64 ts_ms = 0;
      key = key_of(record, ts_ms);
      if (!key) {
        append(left.get(), py(at));
        continue;
      }
      const int known = PyDict_Contains(cache_.get(), key.get());
      if (known < 0) throw Raised{};
      if (!known) put(missing.get(), key.get(), Ref::borrowed(Py_None));
      const i64 offset = integer(PyTuple_GET_ITEM(record, kOffset));
      if (offset % every == 0 || ts_ms - integer(PyTuple_GET_ITEM(record, kAppendTs)) > ahead_ms)
        append(watched.get(), py(at));
    }
    scanned_ = Ref::borrowed(args[0]);
    Ref keys(checked(PySequence_List(missing.get())));
    return checked(PyTuple_Pack(3, keys.get(), left.get(), watched.get()));
  }

  // run(part, emit, records, first, clock_ms, unsettled, call, most_keys) -> (next, clock_ms, counts)
  //
  // Fold records[first:next]; `part` gets the record that an emitter may ask for as `_record`.
  PyObject* run(Arguments args, Py_ssize_t n) {
    expect(n, 8, 8);
    part_ = args[0];
    emit_ = args[1];
    PyObject* records = args[2];
    Py_ssize_t at = integer(args[3]);
    clock_ms_ = integer(args[4]);
    unsettled_ = args[5];
    Ref outputs = attribute(args[6], "outputs"), changes = attribute(args[6], "changes");
    outputs_ = outputs.get();
    changes_ = changes.get();
    const Py_ssize_t most_keys = integer(args[7]);
    size_ = 0;
    counts_.clear();
    ++run_;
    if (!PyList_Check(records) || !PyDict_Check(unsettled_)) raise(PyExc_TypeError, "records are a list, keys a dict");
    const bool looked = records == scanned_.get();
    if (looked && static_cast<size_t>(PyList_GET_SIZE(records)) != keys_.size())
      raise(PyExc_RuntimeError, "records were added or taken away since they were looked at");
    while (at < PyList_GET_SIZE(records) && PyDict_Size(unsettled_) < most_keys) {
      PyObject* record = PyList_GET_ITEM(records, at);
      i64 ts_ms;
      const Ref key = looked ? keys_[static_cast<size_t>(at)] : key_of(record, ts_ms);
      if (!key || !fold(record, key)) break;
      ++at;
    }
    if (at == PyList_GET_SIZE(records)) scanned_ = Ref();
    slates_.flush(partition_);
    Ref counts(checked(PyDict_New()));
    for (const auto& [name, number] : counts_) put(counts.get(), py_text(name).get(), py(number));
    if (size_) {
      Ref size(checked(PyNumber_Add(attribute(args[6], "size_bytes").get(), py(size_).get())));
      if (PyObject_SetAttrString(args[6], "size_bytes", size.get()) < 0) throw Raised{};
    }
    return Py_BuildValue("nLO", at, static_cast<long long>(clock_ms_), counts.get());
  }

  void count(const char* what) { ++counts_[what]; }

  bool shown(const Exposure& exposure) {
    if (slates_.shown(exposure, emit_)) return true;
    slates_.flush(partition_);
    return false;
  }

  bool outcome(const Change& change) {
    if (slates_.outcome(Exposures::of(change.exposure), change.slot, change.head, change.delta, emit_)) return true;
    slates_.flush(partition_);
    return false;
  }

  void example(const Exposure& exposure, size_t slot, std::string_view user_id, i64 closed_ts_ms, bool correction,
               const double* rewards) {
    const i64 place = sink_.place++;
    if (silent_) return;
    const std::string row = exposure.example_row(slot, user_id, closed_ts_ms, correction, rewards);
    Ref key = py_bytes(user_id), value = py_bytes(numbered(place, row));
    append(outputs_, Ref(checked(PyObject_CallFunction(output_.get(), "siOO", "examples", -1, key.get(), value.get()))));
  }

 private:
  enum { kTopic, kPartition, kOffset, kKey, kValue, kHeaders, kAppendTs };
  static constexpr size_t kInline = 16;  // streams.partition_fold._DUE_INLINE
  static constexpr i64 kAnyTime = 1LL << 62;

  CacheEntry* entry_of(PyObject* key) const {
    PyObject* found = PyDict_GetItemWithError(cache_.get(), key);
    if (found == nullptr && PyErr_Occurred()) throw Raised{};
    return found == nullptr || Py_TYPE(found) != type_of<CacheEntry> ? nullptr : &unbox<CacheEntry>(found);
  }

  // The entry of a key that is not in memory; nullptr = it is of another partition.
  CacheEntry* taken_in(PyObject* key) const {
    Ref done(checked(PyObject_CallMethod(part_, "take_in", "O", key)));
    return entry_of(key);
  }

  // The user's key, if an event is plain and its bytes are those that Python would keep.
  Ref key_of(PyObject* record, i64& ts_ms) const {
    if (!PyTuple_Check(record) || PyTuple_GET_SIZE(record) != 7) raise(PyExc_TypeError, "a record has seven fields");
    if (PyTuple_GET_SIZE(PyTuple_GET_ITEM(record, kHeaders)) != 0) return {};
    const std::string_view packed = bytes_of(PyTuple_GET_ITEM(record, kValue));
    try {
      if (!plain(packed, wall_ ? integer(PyTuple_GET_ITEM(record, kAppendTs)) : kAnyTime)) return {};
    } catch (const Raised&) {
      PyErr_Clear();
      return {};
    }
    const UserTransition::Event event(packed);
    if (event.user.empty() || event.user[0] == '#' || event.user[0] == '\1') return {};
    if (event.kind == kExposure ? !canonical_exposure(packed) : !event.ascii_texts()) return {};
    ts_ms = event.ts_ms;
    return py_text(event.user);
  }

  // Fold one record that has a key, or do nothing: false.
  bool fold(PyObject* record, const Ref& key) {
    const std::string_view packed = bytes_of(PyTuple_GET_ITEM(record, kValue));
    const i64 append_ts_ms = integer(PyTuple_GET_ITEM(record, kAppendTs));
    const UserTransition::Event event(packed);
    CacheEntry* entry = entry_of(key.get());
    if (entry == nullptr) entry = taken_in(key.get());
    if (entry == nullptr || entry->user == nullptr) return false;
    const i64 clock_ms = wall_ ? std::max(clock_ms_, append_ts_ms) : clock_ms_;
    if (clock_ms > due_.horizon_ms) return false;
    const UserTransition::Calls calls{entry->state_object(), emit_, sink_, this};
    const i64 id = id_hash(event.id);
    const int verdict = entry->user->verdict(calls, id, event.ts_ms, clock_ms);
    if (verdict == UserTransition::kBeyond) return false;
    if (due_.any(clock_ms) && !prepare(clock_ms)) return false;
    clock_ms_ = clock_ms;
    sink_.offset = integer(PyTuple_GET_ITEM(record, kOffset));
    sink_.place = 0;
    if (event.kind == kExposure && PyObject_SetAttrString(part_, "_record", record) < 0) throw Raised{};
    for (const auto& [due_ms, due_key] : found_) run_due(*entry_of(due_key.get()), due_key.get(), due_ms);
    found_.clear();
    if (verdict == UserTransition::kRepeat) {
      count("repeat");
    } else if (entry->user->fold(event, id, packed, append_ts_ms, clock_ms_, calls) == UserTransition::kChanged) {
      change(*entry->user, clock_ms_);
    }
    touch(*entry, key.get());
    return true;
  }

  // Find what is due; false: it is left to Python.
  bool prepare(i64 clock_ms) {
    found_ = due_.pop(clock_ms);
    bool own = found_.size() <= kInline;
    for (size_t at = 0; own && at < found_.size(); ++at) {
      const CacheEntry* entry = entry_of(found_[at].key.get());
      own = entry != nullptr && entry->user != nullptr;
    }
    if (!own) {
      due_.give_back(found_);
      found_.clear();
    }
    return own;
  }

  void run_due(CacheEntry& entry, PyObject* key, i64 due_ms) {
    const UserTransition::Calls calls{entry.state_object(), emit_, sink_, this};
    i64 now = entry.user->due();
    if (now != due_ms) due_.put_one(key, now);
    while (now <= clock_ms_) {
      if (entry.user->do_due(now, calls)) change(*entry.user, now);
      const i64 after = entry.user->due();
      if (after == now) raise(PyExc_RuntimeError, "users '" + std::string(text(key)) + "' is still due after on_due");
      now = after;
    }
    touch(entry, key);
  }

  void touch(CacheEntry& entry, PyObject* key) {
    const i64 now = entry.user->due();
    if (now != entry.due_ms) {
      due_.put_one(key, now);
      entry.due_ms = now;
    }
    if (entry.touched == run_) return;
    entry.touched = run_;
    if (PyDict_SetItem(unsettled_, key, PyDict_GetItemWithError(cache_.get(), key)) < 0) throw Raised{};
  }

  void change(const UserTransition& user, i64 clock_ms) {
    const i64 place = sink_.place++;
    if (silent_) return;
    std::string packed;
    put_text(packed, 2, user.user_id());
    put_int(packed, 3, user.lead().newest_event_ts_ms);
    put_int(packed, 4, clock_ms);
    Ref key = py_bytes(user.user_id()), value = py_bytes(numbered(place, packed));
    append(changes_, Ref(checked(PyTuple_Pack(2, key.get(), value.get()))));
  }

  std::string numbered(i64 place, std::string_view message) {
    std::string number, out;
    const i64 parts[] = {generation_, partition_, sink_.offset, sink_.step, place};
    for (u32 field = 1; field <= 5; ++field) put_int(number, field, parts[field - 1]);
    put_delimited(out, 1, number);
    out += message;
    size_ += static_cast<i64>(out.size());
    return out;
  }

  Ref cache_, due_object_, sink_object_, output_, scanned_;
  std::vector<Ref> keys_;  // of the records in scanned_; none = left to Python
  DueIndex& due_;
  Sink& sink_;
  Slates slates_;
  const i64 generation_, partition_;
  const bool wall_, silent_;
  // Of one call.
  PyObject *part_ = nullptr, *emit_ = nullptr, *unsettled_ = nullptr, *outputs_ = nullptr, *changes_ = nullptr;
  i64 clock_ms_ = 0, size_ = 0;
  u64 run_ = 0;
  std::vector<DueIndex::Due> found_;
  std::map<std::string_view, i64> counts_;
};

inline void UserTransition::Calls::count(const char* what) const {
  if (lane != nullptr) return lane->count(what);
  Ref done(checked(PyObject_CallMethod(emit, "count", "s", what)));
}

inline bool UserTransition::Calls::shown(const Exposure& exposure) const {
  return lane != nullptr && lane->shown(exposure);
}

inline bool UserTransition::Calls::outcome(const Change& change) const {
  return lane != nullptr && lane->outcome(change);
}

inline void UserTransition::Calls::example(const Exposure& exposure, size_t slot, std::string_view user_id,
                                           i64 closed_ts_ms, bool correction, const double* rewards) const {
  if (lane != nullptr) return lane->example(exposure, slot, user_id, closed_ts_ms, correction, rewards);
  static PyObject* method = checked(PyUnicode_InternFromString("example"));
  Ref packed = py_bytes(exposure.example_row(slot, user_id, closed_ts_ms, correction, rewards));
  PyObject* args[] = {emit, packed.get()};
  Ref done(checked(PyObject_VectorcallMethod(method, args, 2, nullptr)));
}

}  // namespace lr
