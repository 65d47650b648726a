// Exposures of one user and their outcomes: the same bytes and changes as features/state/exposures.py, which says what
// they mean.
#pragma once

#include <functional>
#include <set>

#include "outcomes.hpp"

namespace lr {

constexpr i64 kNever = 1LL << 62;

class Exposures {
 public:
  // Exposures(fields, window_ms, late_ms, most)
  Exposures(Arguments args, Py_ssize_t n) {
    expect(n, 4, 4);
    Fields fields(args[0]);
    window_ms_ = integer(args[1]);
    keep_ms_ = window_ms_ + integer(args[2]);
    most_ = static_cast<size_t>(integer(args[3]));
    for (size_t place = 0; place < most_; ++place) read_exposure(fields, place);
    for (size_t page = 0;; ++page) {
      if (fields.raw(Outcomes::names()[page]).empty()) break;
      outcomes_.restore(read_outcomes(fields.body(Outcomes::names()[page])));
    }
    note_times();
  }

  Py_ssize_t size() const { return static_cast<Py_ssize_t>(exposures_.size()); }

  // get(request_id)
  PyObject* get(Arguments args, Py_ssize_t n) {
    expect(n, 1, 1);
    const Ref* found = by_request(text(args[0]));
    if (found == nullptr) {
      PyErr_SetObject(PyExc_KeyError, args[0]);
      throw Raised{};
    }
    return Py_NewRef(found->get());
  }

  // add_exposure(event: bytes, append_ts_ms, clock_ms, counts) -> changes
  PyObject* add_exposure(Arguments args, Py_ssize_t n) {
    expect(n, 4, 4);
    Changes changes;
    place_one(bytes_of(args[0]), integer(args[1]), integer(args[2]), PyObject_IsTrue(args[3]) == 1 ? kCounts : kCountsNot,
              changes);
    return changes.listed();
  }

  enum Counting { kCountsNot, kCounts, kCountsIfDrawn };

  Ref place_one(std::string_view raw, i64 append_ts_ms, i64 clock_ms, Counting counting, Changes& changes) {
    size_t place = free_place(changes);
    Ref made = box(place, raw, append_ts_ms, counting == kCounts);
    Exposure& exposure = of(made);
    if (counting == kCountsIfDrawn) exposure.counts = exposure.countable();
    auto same = std::find_if(exposures_.begin(), exposures_.end(),
                             [&](const Ref& each) { return of(each).request_id == exposure.request_id; });
    if (same != exposures_.end())
      *same = made;
    else
      exposures_.push_back(made);
    dirty_events_.insert(place);
    dirty_joined_.insert(place);
    see(made, changes);
    const i64 waits_from_ms = clock_ms - window_ms_;
    outcomes_.change_each([&](Outcome& outcome) {
      if (!outcome.target && outcome.ts_ms <= waits_from_ms) return false;
      if (exposure.find(outcome.item, outcome.hash) < 0) return false;
      const Ref* target = target_of(outcome);
      if (target == nullptr || target->get() != made.get()) return false;
      Ref previous = outcome.target;
      int slot = outcome.slot;
      outcome.join(made);
      if (previous) refresh(previous, slot, changes);
      refresh(made, outcome.slot, changes);
      return true;
    });
    note_times();
    return made;
  }

  // add_outcome(item_id, event_ts_ms, bits, request_id, position) -> changes
  PyObject* add_outcome(Arguments args, Py_ssize_t n) {
    expect(n, 5, 5);
    Changes changes;
    add_one(text(args[0]), integer(args[1]), static_cast<int>(integer(args[2])), text(args[3]), integer(args[4]),
            changes);
    return changes.listed();
  }

  void add_one(std::string_view item, i64 ts_ms, int bits, std::string_view request_id, i64 position,
               Changes& changes) {
    Outcome outcome{std::string(item), std::hash<std::string_view>{}(item), ts_ms, bits, std::string(request_id),
                    position, {}, 0};
    if (const Ref* target = target_of(outcome)) {
      outcome.join(*target);
      change(outcome.target, outcome.slot, outcome.exposure()->bits[outcome.slot] | outcome.bits, changes);
    }
    while (!outcomes_.empty() && !outcomes_.has_room(outcome)) {
      const Outcome oldest = outcomes_.take_oldest();
      if (!oldest.target) waiting_.erase(std::lower_bound(waiting_.begin(), waiting_.end(), oldest.ts_ms + window_ms_));
      changes.count("outcome_overflow");
    }
    if (!outcome.target) {
      i64 until_ms = outcome.ts_ms + window_ms_;
      waiting_.insert(std::upper_bound(waiting_.begin(), waiting_.end(), until_ms), until_ms);
    }
    outcomes_.add(std::move(outcome));
  }

  // shrink(most_bytes) -> changes
  PyObject* shrink(Arguments args, Py_ssize_t n) {
    expect(n, 1, 1);
    Changes changes;
    shrink_to(static_cast<size_t>(integer(args[0])), changes);
    return changes.listed();
  }

  void shrink_to(size_t most, Changes& changes) {
    size_t held = 0;
    for (const Ref& each : exposures_) held += of(each).size_bytes();
    if (held <= most) return;
    while (held > most) held -= drop_oldest(changes);
    note_times();
  }

  PyObject* due_ms(Arguments, Py_ssize_t) {
    if (exposures_.empty()) Py_RETURN_NONE;
    return PyLong_FromLongLong(due());
  }

  // kNever = nothing is due.
  i64 due() const {
    if (exposures_.empty()) return kNever;
    i64 open = std::numeric_limits<i64>::max(), last = std::numeric_limits<i64>::min();
    for (const Ref& each : exposures_) {
      const Exposure& exposure = of(each);
      last = std::max(last, exposure.shown_ms);
      if (!exposure.closed) open = std::min(open, exposure.shown_ms);
    }
    return open != std::numeric_limits<i64>::max() ? open + window_ms_ : last + keep_ms_;
  }

  // on_due(due_ms) -> changes
  PyObject* on_due(Arguments args, Py_ssize_t n) {
    expect(n, 1, 1);
    Changes changes;
    close_until(integer(args[0]), changes);
    return changes.listed();
  }

  void close_until(i64 due_ms, Changes& changes) {
    std::vector<Ref> sorted = exposures_;
    std::sort(sorted.begin(), sorted.end(), [](const Ref& a, const Ref& b) { return of(a).age() < of(b).age(); });
    for (const Ref& each : sorted)
      if (!of(each).closed && of(each).shown_ms + window_ms_ <= due_ms) close(each, changes);
    forget_until(due_ms, changes);
  }

  // forget(clock_ms) -> changes
  PyObject* forget(Arguments args, Py_ssize_t n) {
    expect(n, 1, 1);
    Changes changes;
    forget_until(integer(args[0]), changes);
    return changes.listed();
  }

  void forget_until(i64 clock_ms, Changes& changes) {
    bool many = waiting_.size() >= kGoing && waiting_[kGoing - 1] <= clock_ms;
    if (!many && clock_ms < leaves_ms_) return;
    std::vector<Ref> gone;
    for (const Ref& each : exposures_)
      if (of(each).closed && of(each).shown_ms + keep_ms_ <= clock_ms) gone.push_back(each);
    for (const Ref& each : gone) drop(each);
    outcomes_.erase_if([&](const Outcome& each) {
      if (each.target || clock_ms < each.ts_ms + window_ms_) return false;
      changes.count(each.request_id.empty() ? "unattributed" : "orphan");
      return true;
    });
    note_times();
  }

  void gather(PyObject* changed) {
    outcomes_.gather(changed);
    for (size_t place : dirty_events_) {
      const Exposure* held = at_place(place);
      put(changed, event_names()[place], held ? held->event_page() : py_bytes({}));
    }
    for (size_t place : dirty_joined_) {
      const Exposure* held = at_place(place);
      put(changed, joined_names()[place], held ? held->joined_page() : py_bytes({}));
    }
    dirty_events_.clear();
    dirty_joined_.clear();
  }

  static Exposure& of(const Ref& each) { return *reinterpret_cast<Box<Exposure>*>(each.get())->value; }

 private:
  static constexpr size_t kGoing = 16;

  static Names& event_names() {
    static Names all("_x");
    return all;
  }
  static Names& joined_names() {
    static Names all("_j");
    return all;
  }
  static Ref box(size_t place, std::string_view raw, i64 append_ts_ms, bool counts) {
    Ref made(checked(type_of<Exposure>->tp_alloc(type_of<Exposure>, 0)));
    auto* held = reinterpret_cast<Box<Exposure>*>(made.get());
    held->value = nullptr;
    held->value = new Exposure(place, raw, append_ts_ms, counts);
    return made;
  }

  [[noreturn]] static void unread(const std::string& what) { raise(imported.format_error, what + "; run `liverank rebuild`"); }

  void read_exposure(const Fields& fields, size_t place) {
    std::string_view stored = fields.body(event_names()[place]);
    if (stored.empty()) return;
    std::string_view joined = fields.body(joined_names()[place]);
    std::string number = std::to_string(place);
    if (joined.empty()) unread("exposure " + number + " has no page _j" + number);
    if (stored.size() < 8) unread("exposure " + number + " is cut short");
    Ref made = box(place, stored.substr(8), load<i64>(stored.data()), joined[0] & 2);
    Exposure& exposure = of(made);
    const size_t n = exposure.slots.size();
    if (joined.size() != 1 + 2 * n)
      unread("exposure '" + std::string(exposure.request_id) + "' has " + std::to_string(n) + " slots, its page " +
             std::to_string(joined.size() - 1) + " bytes");
    exposure.closed = joined[0] & 1;
    std::copy_n(joined.begin() + 1, n, exposure.bits.begin());
    std::copy_n(joined.begin() + 1 + n, n, exposure.marks.begin());
    exposures_.push_back(made);
  }

  std::vector<Outcome> read_outcomes(std::string_view packed) const {
    std::vector<Outcome> all;
    for (size_t at = 0; at < packed.size();) {
      const char* data = packed.data() + at;
      size_t n_item = 0, n_request = 0;
      if (packed.size() - at >= Outcome::kHead) {
        n_item = load<u8>(data + 13);
        n_request = load<u8>(data + 14);
      }
      if (packed.size() - at < Outcome::kHead + n_item + n_request)
        unread("outcomes cannot be read at byte " + std::to_string(at) + " (cut short)");
      std::string_view item = packed.substr(at + Outcome::kHead, n_item);
      Outcome outcome{std::string(item), std::hash<std::string_view>{}(item), load<i64>(data), load<u8>(data + 8),
                      std::string(packed.substr(at + Outcome::kHead + n_item, n_request)), load<u16>(data + 11), {}, 0};
      outcome.slot = load<u8>(data + 10);
      u8 number = load<u8>(data + 9);
      if (number != 255) {
        for (const Ref& each : exposures_)
          if (of(each).number == number) outcome.target = each;
        if (!outcome.target || outcome.slot >= static_cast<int>(outcome.exposure()->slots.size()))
          unread("outcomes cannot be read at byte " + std::to_string(at) + " (no such exposure)");
      }
      all.push_back(std::move(outcome));
      at += Outcome::kHead + n_item + n_request;
    }
    return all;
  }

  const Ref* by_request(std::string_view request_id) const {
    for (const Ref& each : exposures_)
      if (of(each).request_id == request_id) return &each;
    return nullptr;
  }

  const Exposure* at_place(size_t place) const {
    for (const Ref& each : exposures_)
      if (of(each).number == place) return &of(each);
    return nullptr;
  }

  // -- time

  void note_times() {
    leaves_ms_ = kNever;
    for (const Ref& each : exposures_) leaves_ms_ = std::min(leaves_ms_, of(each).shown_ms + keep_ms_);
    waiting_.clear();
    outcomes_.each([&](const Outcome& each) {
      if (!each.target) waiting_.push_back(each.ts_ms + window_ms_);
    });
    std::sort(waiting_.begin(), waiting_.end());
  }

  // -- the join

  const Ref* target_of(const Outcome& outcome) const {
    if (!outcome.request_id.empty()) {
      const Ref* found = by_request(outcome.request_id);
      if (found == nullptr || of(*found).find(outcome.item, outcome.hash) < 0) return nullptr;
      return std::abs(outcome.ts_ms - of(*found).shown_ms) < window_ms_ ? found : nullptr;
    }
    const Ref* best = nullptr;
    for (const Ref& each : exposures_) {
      i64 age_ms = outcome.ts_ms - of(each).shown_ms;
      if (age_ms < 0 || age_ms >= window_ms_ || of(each).find(outcome.item, outcome.hash) < 0) continue;
      if (best == nullptr || of(each).age() > of(*best).age()) best = &each;
    }
    return best;
  }

  void refresh(const Ref& exposure, int slot, Changes& changes) {
    int bits = 0;
    outcomes_.each([&](const Outcome& each) {
      if (each.target.get() == exposure.get() && each.slot == slot) bits |= each.bits;
    });
    change(exposure, slot, bits, changes);
  }

  void change(const Ref& held, size_t slot, int bits, Changes& changes) {
    Exposure& exposure = of(held);
    int old = exposure.bits[slot];
    if (bits == old) return;
    int labels = (bits ^ old) & kLabels;
    if (labels && exposure.closed) {
      if (exposure.marks[slot] & kCorrected) {
        bits = (bits & ~kLabels) | (old & kLabels);
        labels = 0;
        changes.count("late_outcome");
      } else {
        exposure.marks[slot] |= kCorrected | kSeenMark;
        changes.row(held, slot, true);
      }
    }
    exposure.bits[slot] = static_cast<u8>(bits);
    dirty_joined_.insert(exposure.number);
    if (labels && exposure.counts) {
      for (size_t head = 0; head < exposure.head_bits.size(); ++head) {
        int bit = exposure.head_bits[head];
        if (labels & bit && (bit & kFast || exposure.closed)) changes.label(held, slot, head, bits & bit ? 1.0 : -1.0);
      }
    }
    if ((bits ^ old) & (kInteracted | kImpressionBit)) see(held, changes);
  }

  static void see(const Ref& held, Changes& changes) {
    Exposure& exposure = of(held);
    const size_t n = exposure.bits.size();
    bool explicitly = std::any_of(exposure.bits.begin(), exposure.bits.end(), [](u8 each) { return each & kImpressionBit; });
    size_t last = 0;
    for (size_t at = 0; at < n; ++at)
      if (exposure.bits[at] & kInteracted) last = at + 1;
    for (size_t slot = 0; slot < n; ++slot) {
      u8 bits = exposure.bits[slot];
      bool inferred = explicitly ? (bits & kInteracted) && !(bits & kImpressionBit) : slot < last + 2;
      if (inferred == ((exposure.marks[slot] & kInferred) != 0)) continue;
      exposure.marks[slot] ^= kInferred;
      changes.seen(held, slot, inferred ? 1 : -1);
    }
  }

  void close(const Ref& held, Changes& changes) {
    Exposure& exposure = of(held);
    exposure.closed = true;
    dirty_joined_.insert(exposure.number);
    for (size_t slot = 0; slot < exposure.bits.size(); ++slot) {
      u8 bits = exposure.bits[slot];
      if (exposure.marks[slot] & kInferred || bits & kImpressionBit) exposure.marks[slot] |= kSeenMark;
      if (exposure.counts) {
        for (size_t head = 0; head < exposure.head_bits.size(); ++head) {
          int bit = exposure.head_bits[head];
          if (bit && !(bit & kFast))
            changes.label(held, slot, head, (bits & bit ? 1.0 : 0.0) - exposure.expected(slot, head));
        }
      }
      changes.row(held, slot, false);
    }
  }

  // -- storage

  size_t drop_oldest(Changes& changes) {
    Ref oldest = *std::min_element(exposures_.begin(), exposures_.end(), [](const Ref& a, const Ref& b) {
      return std::make_pair(!of(a).closed, of(a).age()) < std::make_pair(!of(b).closed, of(b).age());
    });
    if (!of(oldest).closed) {
      close(oldest, changes);
      changes.count("closed_early");
    }
    drop(oldest);
    return of(oldest).size_bytes();
  }

  size_t free_place(Changes& changes) {
    while (exposures_.size() >= most_) drop_oldest(changes);
    size_t place = 0;
    while (at_place(place) != nullptr) ++place;
    return place;
  }

  void drop(const Ref& held) {
    size_t place = of(held).number;
    dirty_events_.insert(place);
    dirty_joined_.insert(place);
    outcomes_.erase_if([&](const Outcome& outcome) { return outcome.target.get() == held.get(); });
    PyObject* gone = held.get();
    std::erase_if(exposures_, [gone](const Ref& each) { return each.get() == gone; });
  }

  i64 window_ms_, keep_ms_;
  size_t most_;
  std::vector<Ref> exposures_;
  Outcomes outcomes_;
  i64 leaves_ms_ = kNever;
  std::vector<i64> waiting_;
  std::set<size_t> dirty_events_, dirty_joined_;
};

}  // namespace lr
