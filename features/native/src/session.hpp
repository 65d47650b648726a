// Sessions of one user: the same bytes as features/state/session.py, which says what they mean.
#pragma once

#include <memory>
#include <optional>

#include "history.hpp"

namespace lr {

struct Shown {
  i64 ts_ms;
  std::string item;
  i64 append_ts_ms;

  auto key() const { return std::tie(ts_ms, item, append_ts_ms); }
  bool operator==(const Shown& other) const { return key() == other.key(); }
  bool operator<(const Shown& other) const { return key() < other.key(); }

  static Shown of(PyObject* tuple) {
    if (!PyTuple_Check(tuple) || PyTuple_GET_SIZE(tuple) != 3) raise(PyExc_TypeError, "what was shown has three fields");
    return {integer(PyTuple_GET_ITEM(tuple, 0)), std::string(text(PyTuple_GET_ITEM(tuple, 1))),
            integer(PyTuple_GET_ITEM(tuple, 2))};
  }

  Ref object() const {
    Ref ts = py(ts_ms), id = py_text(item), append_ts = py(append_ts_ms);
    PyObject* args[] = {ts.get(), id.get(), append_ts.get()};
    return Ref(checked(PyObject_Vectorcall(imported.shown, args, 3, nullptr)));
  }

  void write(std::string& out) const {
    pack(out, ts_ms);
    pack(out, append_ts_ms);
    pack(out, static_cast<u8>(item.size()));
    out += item;
  }
};

struct Session {
  i64 start_ms, last_ms, end_ms;
  u32 events = 0, clicks = 0, positives = 0, negatives = 0, n_shown = 0;
  std::optional<Shown> shown, abandoned;

  i64 closes_ms(i64 timeout_ms) const { return end_ms >= last_ms ? end_ms : last_ms + timeout_ms; }
  bool pending() const { return shown && !abandoned; }

  void absorb(const Session& other) {
    start_ms = std::min(start_ms, other.start_ms);
    last_ms = std::max(last_ms, other.last_ms);
    end_ms = std::max(end_ms, other.end_ms);
    events += other.events;
    clicks += other.clicks;
    positives += other.positives;
    negatives += other.negatives;
    n_shown += other.n_shown;
    if (other.shown && (!shown || *shown < *other.shown)) shown = other.shown;
  }

  void write(std::string& out) const {
    pack(out, start_ms);
    pack(out, last_ms);
    pack(out, end_ms);
    for (u32 count : {events, clicks, positives, negatives, n_shown}) pack(out, count);
    pack(out, static_cast<u8>((shown ? 1 : 0) | (abandoned ? 2 : 0)));
    if (shown) shown->write(out);
  }

  size_t size_bytes() const { return 45 + (shown ? 17 + shown->item.size() : 0); }
};

class Sessions {
 public:
  static constexpr i64 kNotDue = std::numeric_limits<i64>::max();
  // Abandonments: (1, new) or (-1, taken back).
  using Moves = std::vector<std::pair<int, Shown>>;

  // Sessions(fields, timeout_ms)
  Sessions(Arguments args, Py_ssize_t n) {
    expect(n, 2, 2);
    Fields fields(args[0]);
    timeout_ms_ = integer(args[1]);
    std::string packed(fields.body(older_name(), 1, 2));
    packed += fields.body(current_name(), 1, 2);
    read(packed);
    std::string_view state = fields.body(state_name(), kState);
    if (!state.empty()) {
      count_ = load<u32>(&state[52]);
      abandonments_ = load<u32>(&state[56]);
      intent_ = load<u32>(&state[60]);
      share_ = static_cast<double>(load<float>(&state[64]));
    }
    std::string_view derived = fields.body(derived_name());
    if (derived.size() % Entry::kSize) raise(imported.format_error, "derived signals cannot be read; run `liverank rebuild`");
    for (size_t at = 0; at < derived.size(); at += Entry::kSize) derived_.push_back(Entry::unpack(&derived[at]));
    std::sort(derived_.begin(), derived_.end());
  }

  PyObject* start_ms() {
    if (sessions_.empty()) Py_RETURN_NONE;
    return PyLong_FromLongLong(sessions_.back().start_ms);
  }

  // add(ts_ms, clock_ms, polarity, click, end, shown) -> [(sign, abandonment)]
  PyObject* add(Arguments args, Py_ssize_t n) {
    expect(n, 6, 6);
    std::optional<Shown> shown;
    if (args[5] != Py_None) shown = Shown::of(args[5]);
    return listed(add_one(integer(args[0]), integer(args[1]), integer(args[2]), PyObject_IsTrue(args[3]) == 1,
                          PyObject_IsTrue(args[4]) == 1, std::move(shown)));
  }

  Moves add_one(i64 ts_ms, i64 clock_ms, i64 sign, bool click, bool end, std::optional<Shown> shown) {
    forget(clock_ms);
    Session event{ts_ms, ts_ms, end ? ts_ms : -1};
    event.events = 1;
    event.clicks = click;
    event.positives = sign > 0;
    event.negatives = sign < 0;
    event.n_shown = shown.has_value();
    event.shown = std::move(shown);
    size_t at = sessions_.size();  // one above the last session that starts at or before the event
    while (at > 0 && sessions_[at - 1].start_ms > ts_ms) --at;
    bool before = at > 0 && ts_ms - sessions_[at - 1].last_ms < timeout_ms_;
    bool after = at < sessions_.size() && sessions_[at].start_ms - ts_ms < timeout_ms_;
    Moves changes;
    if (!before && !after) {
      sessions_.insert(sessions_.begin() + at, std::move(event));
      ++count_;
      older_dirty_ |= sessions_.size() > 1;
    } else {
      if (before) --at;
      sessions_[at].absorb(event);
      if (before && after) {
        Session merged = std::move(sessions_[at + 1]);
        sessions_.erase(sessions_.begin() + at + 1);
        sessions_[at].absorb(merged);
        --count_;
        older_dirty_ = true;
        if (merged.abandoned) changes.emplace_back(-1, *merged.abandoned);
      }
      older_dirty_ |= at + 1 < sessions_.size();
    }
    if (sessions_[at].positives) sessions_[at].shown.reset();
    current_dirty_ = state_dirty_ = true;
    settle(at, clock_ms, changes);
    return changes;
  }

  PyObject* due_ms(Arguments, Py_ssize_t) {
    const i64 found = due();
    if (found == kNotDue) Py_RETURN_NONE;
    return PyLong_FromLongLong(found);
  }

  // kNotDue = nothing is due.
  i64 due() const {
    i64 found = kNotDue;
    for (const Session& session : sessions_)
      if (session.pending()) found = std::min(found, session.closes_ms(timeout_ms_));
    return found;
  }

  PyObject* on_due(Arguments args, Py_ssize_t n) {
    expect(n, 1, 1);
    return listed(close_until(integer(args[0])));
  }

  Moves close_until(i64 due_ms) {
    Moves changes;
    for (size_t at = 0; at < sessions_.size(); ++at)
      if (sessions_[at].pending()) settle(at, due_ms, changes);
    return changes;
  }

  // derive(sign, entry or None)
  PyObject* derive(Arguments args, Py_ssize_t n) {
    expect(n, 2, 2);
    derive_one(integer(args[0]), args[1] == Py_None ? std::nullopt : std::optional(Entry::of(args[1])));
    Py_RETURN_NONE;
  }

  void derive_one(i64 sign, const std::optional<Entry>& derived) {
    if (derived) {
      const Entry& entry = *derived;
      auto at = std::upper_bound(derived_.begin(), derived_.end(), entry);
      if (sign > 0)
        derived_.insert(at, entry);
      else if (at != derived_.begin() && *(at - 1) == entry)
        derived_.erase(at - 1);
      derived_dirty_ = true;
    }
    abandonments_ += static_cast<u32>(sign);
    state_dirty_ = true;
  }

  PyObject* next_leaving_ms(Arguments args, Py_ssize_t n) {
    expect(n, 3, 3);
    const i64 due = leaving(integer(args[0]), args[1], integer(args[2]));
    if (due < 0) Py_RETURN_NONE;
    return PyLong_FromLongLong(due);
  }

  // -1 = never
  i64 leaving(i64 after_ms, PyObject* windows, i64 grain_ms) const {
    return next_leaving([&](size_t at) { return derived_[at].ts_ms; }, derived_.size(), after_ms, windows, grain_ms);
  }

  // set_intent(category, share)
  PyObject* set_intent(Arguments args, Py_ssize_t n) {
    expect(n, 2, 2);
    intend(static_cast<u32>(integer(args[0])), number(args[1]));
    Py_RETURN_NONE;
  }

  void intend(u32 category, double share) {
    if (category == intent_ && share == share_) return;
    intent_ = category;
    share_ = share;
    state_dirty_ = true;
  }

  // Start of the newest session; none = there is no session.
  std::optional<i64> start() const {
    return sessions_.empty() ? std::nullopt : std::optional(sessions_.back().start_ms);
  }

  // [(sign, abandonment)]
  static PyObject* listed(const Moves& moves) {
    Ref changes(checked(PyList_New(0)));
    for (const auto& [sign, abandoned] : moves) {
      Ref shown = abandoned.object();
      append(changes.get(), Ref(checked(Py_BuildValue("iO", sign, shown.get()))));
    }
    return changes.release();
  }

  void gather(PyObject* changed) {
    std::string out;
    if (current_dirty_) {
      sessions_.back().write(out);
      put(changed, current_name(), page_bytes(out, 2));
    }
    if (older_dirty_) {
      out.clear();
      for (size_t at = 0; at + 1 < sessions_.size(); ++at) sessions_[at].write(out);
      put(changed, older_name(), page_or_nothing(out, 2));
    }
    if (state_dirty_) {
      out.clear();
      const Session& now = sessions_.back();
      for (i64 time : {now.start_ms, now.last_ms, now.end_ms, timeout_ms_}) pack(out, time);
      for (u32 each : {now.events, now.clicks, now.positives, now.negatives, now.n_shown, count_, abandonments_, intent_})
        pack(out, each);
      pack(out, static_cast<float>(share_));
      put(changed, state_name(), page_bytes(out));
    }
    if (derived_dirty_) {
      out.assign(derived_.size() * Entry::kSize, '\0');
      for (size_t at = 0; at < derived_.size(); ++at) derived_[at].pack_into(&out[at * Entry::kSize]);
      put(changed, derived_name(), page_or_nothing(out));
    }
    current_dirty_ = older_dirty_ = state_dirty_ = derived_dirty_ = false;
  }

 private:
  static constexpr size_t kSession = 45, kShown = 17, kState = 68, kMaxFinal = 16, kMaxBytes = 10 * 1024, kMaxSession = 192;
  static constexpr i64 kHorizonMs = 7LL * 24 * 3600 * 1000;

  static PyObject* name(const char* text) { return checked(PyBytes_FromString(text)); }
  static PyObject* state_name() {
    static PyObject* made = name("user_session:state");
    return made;
  }
  static PyObject* current_name() {
    static PyObject* made = name("_sc");
    return made;
  }
  static PyObject* older_name() {
    static PyObject* made = name("_s");
    return made;
  }
  static PyObject* derived_name() {
    static PyObject* made = name("user_history:page_3");
    return made;
  }

  void read(std::string_view packed) {
    size_t at = 0;
    auto need = [&](size_t n) {
      if (packed.size() - at < n)
        raise(imported.format_error,
              "sessions cannot be read at byte " + std::to_string(at) + " (cut short); run `liverank rebuild`");
    };
    while (at < packed.size()) {
      need(kSession);
      const char* data = packed.data() + at;
      Session session{load<i64>(data), load<i64>(data + 8), load<i64>(data + 16)};
      session.events = load<u32>(data + 24);
      session.clicks = load<u32>(data + 28);
      session.positives = load<u32>(data + 32);
      session.negatives = load<u32>(data + 36);
      session.n_shown = load<u32>(data + 40);
      u8 flags = load<u8>(data + 44);
      at += kSession;
      if (flags & 1) {
        need(kShown);
        size_t length = load<u8>(&packed[at + 16]);
        need(kShown + length);
        session.shown = Shown{load<i64>(&packed[at]), std::string(packed.substr(at + kShown, length)), load<i64>(&packed[at + 8])};
        at += kShown + length;
      }
      if (flags & 2 && session.shown) {
        session.abandoned = session.shown;
        session.abandoned->ts_ms = session.closes_ms(timeout_ms_);
      }
      sessions_.push_back(std::move(session));
    }
  }

  void settle(size_t at, i64 clock_ms, Moves& changes) {
    Session& session = sessions_[at];
    i64 closes_ms = session.closes_ms(timeout_ms_);
    std::optional<Shown> wanted;
    if (session.shown && !session.positives && closes_ms <= clock_ms) {
      wanted = session.shown;
      wanted->ts_ms = closes_ms;
    }
    if (wanted == session.abandoned) return;
    if (session.abandoned) changes.emplace_back(-1, *session.abandoned);
    if (wanted) changes.emplace_back(1, *wanted);
    session.abandoned = std::move(wanted);
    current_dirty_ = true;
    older_dirty_ |= at + 1 < sessions_.size();
  }

  void forget(i64 clock_ms) {
    i64 final_ms = clock_ms - kHorizonMs - timeout_ms_;
    size_t gone = 0;
    while (gone + 1 < sessions_.size() && sessions_[gone].last_ms <= final_ms) ++gone;
    if (sessions_.size() - gone > kMaxBytes / kMaxSession) {
      size_t size = 0;
      for (size_t at = gone; at < sessions_.size(); ++at) size += sessions_[at].size_bytes();
      for (; size > kMaxBytes && gone + 1 < sessions_.size(); ++gone) size -= sessions_[gone].size_bytes();
    }
    if (gone == 0) return;
    sessions_.erase(sessions_.begin(), sessions_.begin() + gone);
    older_dirty_ = true;
    size_t final = 0;
    while (final < derived_.size() && derived_[final].ts_ms < sessions_.front().start_ms) ++final;
    if (final > kMaxFinal) {
      derived_.erase(derived_.begin(), derived_.begin() + (final - kMaxFinal));
      derived_dirty_ = true;
    }
  }

  i64 timeout_ms_;
  std::vector<Session> sessions_;
  u32 count_ = 0, abandonments_ = 0, intent_ = 0;
  double share_ = 0.0;
  std::vector<Entry> derived_;
  bool state_dirty_ = false, current_dirty_ = false, older_dirty_ = false, derived_dirty_ = false;
};

}  // namespace lr
