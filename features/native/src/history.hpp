// Signals of one user: the same bytes as features/state/history.py, which says what they mean.
#pragma once

#include "base.hpp"
#include "entry.hpp"
#include "older.hpp"

namespace lr {

// First multiple of the grain above `after_ms` by which something has left a window that it was in; -1 = never.
template <class Times>
i64 next_leaving(const Times& times, size_t n, i64 after_ms, PyObject* windows, i64 grain_ms) {
  i64 due = -1, floor_ms = floor_div(after_ms, grain_ms) * grain_ms;
  for (Py_ssize_t each = 0; each < PyTuple_GET_SIZE(windows); ++each) {
    i64 window_ms = integer(PyTuple_GET_ITEM(windows, each));
    size_t low = 0, high = n;  // first time after floor - window
    while (low < high) {
      size_t middle = (low + high) / 2;
      if (floor_ms - window_ms < times(middle))
        high = middle;
      else
        low = middle + 1;
    }
    if (low < n) {
      i64 leaves_ms = -floor_div(-(times(low) + window_ms), grain_ms) * grain_ms;
      if (due < 0 || leaves_ms < due) due = leaves_ms;
    }
  }
  return due;
}

class History {
 public:
  History(Arguments args, Py_ssize_t n) {
    expect(n, 1, 1);
    Fields fields(args[0]);
    older_ = Older(fields);
    for (size_t page = 0; page < kPages; ++page) slots_ += fields.body(name(page), Entry::kSize);
    for (size_t at = 0; at * Entry::kSize < slots_.size(); ++at)
      order_.push_back({Entry::unpack(&slots_[at * Entry::kSize]), at});
    std::sort(order_.begin(), order_.end());
  }

  Py_ssize_t size() const { return static_cast<Py_ssize_t>(order_.size()); }

  // add(entry) -> whether it counts anywhere
  PyObject* add(Arguments args, Py_ssize_t n) {
    expect(n, 1, 1);
    return PyBool_FromLong(add_one(Entry::of(args[0])));
  }

  // intent(start_ms) -> (category, share) of good news since then; (0, 0.0) = none
  PyObject* intent(Arguments args, Py_ssize_t n) {
    expect(n, 1, 1);
    const auto [category, share] = intent_since(integer(args[0]));
    return Py_BuildValue("Ld", static_cast<long long>(category), share);
  }

  std::pair<i64, double> intent_since(i64 start_ms) {
    if (start_ms != intent_from_ms_) {
      intent_from_ms_ = start_ms;
      intent_.clear();
      for (size_t at = order_.size(); at-- > 0 && order_[at].first.ts_ms >= start_ms;) weigh(order_[at].first, 1);
    }
    i64 total = 0, most = 0, category = 0;
    for (const auto& [each, weight] : intent_) {
      total += weight;
      if (weight > most || (weight == most && each > category)) {
        most = weight;
        category = each;
      }
    }
    return {category, total ? static_cast<double>(most) / static_cast<double>(total) : 0.0};
  }

  // next_leaving_ms(after_ms, windows_ms, grain_ms) -> int or None
  PyObject* next_leaving_ms(Arguments args, Py_ssize_t n) {
    expect(n, 3, 3);
    const i64 due = leaving(integer(args[0]), args[1], integer(args[2]));
    if (due < 0) Py_RETURN_NONE;
    return PyLong_FromLongLong(due);
  }

  // -1 = never
  i64 leaving(i64 after_ms, PyObject* windows, i64 grain_ms) const {
    const i64 due = next_leaving([&](size_t at) { return order_[at].first.ts_ms; }, order_.size(), after_ms, windows,
                                 grain_ms);
    const auto& older = older_.times_ms();
    const i64 later = next_leaving([&](size_t at) { return older[at]; }, older.size(), after_ms, windows, grain_ms);
    return due < 0 || (later >= 0 && later < due) ? later : due;
  }

  void gather(PyObject* changed) {
    for (size_t page = 0; page < kPages; ++page) {
      if (!dirty_[page]) continue;
      put(changed, name(page), page_bytes(std::string_view(slots_).substr(page * kStep, kStep)));
      dirty_[page] = false;
    }
    older_.gather(changed);
  }

  bool add_one(const Entry& entry) {
    size_t slot = order_.size();
    if (slot < kCapacity) {
      slots_.resize(slots_.size() + Entry::kSize);
    } else {
      const Entry oldest = order_.front().first;
      slot = order_.front().second;
      if (entry < oldest || entry == oldest) return older_.add(entry);
      older_.add(oldest);
      order_.erase(order_.begin());
      if (oldest.ts_ms >= intent_from_ms_) weigh(oldest, -1);
    }
    entry.pack_into(&slots_[slot * Entry::kSize]);
    std::pair<Entry, size_t> placed{entry, slot};
    if (!order_.empty() && entry < order_.back().first)
      order_.insert(std::upper_bound(order_.begin(), order_.end(), placed), placed);
    else
      order_.push_back(placed);
    if (entry.ts_ms >= intent_from_ms_) weigh(entry, 1);
    dirty_[slot / kPerPage] = true;
    return true;
  }

 private:
  static constexpr size_t kCapacity = 128, kPerPage = 43, kPages = 3, kStep = kPerPage * Entry::kSize;

  static PyObject* name(size_t page) {
    static Names all("user_history:page_");
    return all[page];
  }

  void weigh(const Entry& entry, int sign) {
    if (entry.sixteenths <= 0 || entry.category == 0) return;
    for (size_t at = 0; at < intent_.size(); ++at) {
      if (intent_[at].first != entry.category) continue;
      intent_[at].second += sign * entry.sixteenths;
      if (intent_[at].second == 0) {
        intent_[at] = intent_.back();
        intent_.pop_back();
      }
      return;
    }
    intent_.emplace_back(entry.category, sign * entry.sixteenths);
  }

  Older older_;
  std::string slots_;
  std::vector<std::pair<Entry, size_t>> order_;
  bool dirty_[kPages] = {};
  i64 intent_from_ms_ = std::numeric_limits<i64>::max();
  std::vector<std::pair<i64, i64>> intent_;
};

}  // namespace lr
