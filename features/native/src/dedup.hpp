// Event ids of one user: the same bytes as features/state/dedup.py, which says what they mean.
#pragma once

#include <numeric>
#include <optional>
#include <set>

#include "base.hpp"

namespace lr {

class Dedup {
 public:
  Dedup(Arguments args, Py_ssize_t n) {
    expect(n, 1, 1);
    Fields fields(args[0]);
    for (;; ++stored_pages_) {
      std::string_view page = fields.body(names()[stored_pages_], kEntry);
      if (page.empty()) break;
      for (size_t at = 0; at < page.size(); at += kEntry) {
        ids_.push_back(load<i64>(&page[at]));
        times_.push_back(load<i64>(&page[at + 8]));
        arrivals_.push_back(load<u32>(&page[at + 16]));
      }
    }
    std::string_view meta = fields.body(meta_name(), 16);
    if (!meta.empty()) {
      bound_ms_ = load<i64>(meta.data());
      bot_until_ms_ = load<i64>(meta.data() + 8);
    }
  }

  Py_ssize_t size() const { return static_cast<Py_ssize_t>(ids_.size()); }

  // judge(event_id_hash, event_ts_ms, clock_ms) -> Verdict
  PyObject* judge(Arguments args, Py_ssize_t n) {
    expect(n, 3, 3);
    return Py_NewRef(imported.verdicts[verdict(integer(args[0]), integer(args[1]), integer(args[2]))]);
  }

  // 0 = new, 1 = repeat, 2 = beyond the horizon
  int verdict(i64 id, i64 ts_ms, i64 clock_ms) const {
    if (std::find(ids_.begin(), ids_.end(), id) != ids_.end()) return 1;
    return ts_ms < clock_ms - kHorizonMs || (bound_ms_ != kNone && ts_ms <= bound_ms_) ? 2 : 0;
  }

  // add(event_id_hash, event_ts_ms, clock_ms) -> whether others left
  PyObject* add(Arguments args, Py_ssize_t n) {
    expect(n, 3, 3);
    return PyBool_FromLong(add_one(integer(args[0]), integer(args[1]), integer(args[2])));
  }

  PyObject* is_bot(Arguments args, Py_ssize_t n) {
    expect(n, 1, 1);
    return PyBool_FromLong(bot(integer(args[0])));
  }

  bool bot(i64 clock_ms) const { return clock_ms < bot_until_ms_; }
  std::optional<i64> bound() const { return bound_ms_ == kNone ? std::nullopt : std::optional(bound_ms_); }

  PyObject* bound_ms() {
    if (bound_ms_ == kNone) Py_RETURN_NONE;
    return PyLong_FromLongLong(bound_ms_);
  }

  void gather(PyObject* changed) {
    if (meta_dirty_) {
      std::string meta;
      pack(meta, bound_ms_);
      pack(meta, bot_until_ms_);
      put(changed, meta_name(), page_bytes(meta));
      meta_dirty_ = false;
    }
    if (!dirty_.empty()) {
      size_t n_pages = (ids_.size() + kPerPage - 1) / kPerPage;
      for (size_t page : dirty_) {
        if (page < n_pages)
          put(changed, names()[page], encoded(page));
        else if (page < stored_pages_)
          put(changed, names()[page], py_bytes({}));
      }
      stored_pages_ = n_pages;
      dirty_.clear();
    }
  }

  // Whether others left.
  bool add_one(i64 id, i64 ts_ms, i64 clock_ms) {
    i64 clock_s = floor_div(clock_ms, 1000);
    if (clock_s < 0 || clock_s > std::numeric_limits<u32>::max())
      raise(PyExc_OverflowError, "the partition clock lies outside 1970 to 2106");
    ids_.push_back(id);
    times_.push_back(ts_ms);
    arrivals_.push_back(static_cast<u32>(clock_s));
    size_t n = ids_.size();
    dirty_.insert((n - 1) / kPerPage);
    if (n <= kMost) return false;
    i64 horizon_s = clock_s - kRecentS;
    if (n > kMaxRecent && arrivals_[n - kMaxRecent - 1] >= horizon_s) {
      bot_until_ms_ = clock_ms + kBotMs;
      meta_dirty_ = true;
    } else if (arrivals_[kLeave - 1] >= horizon_s) {
      return false;
    }
    if (n < hold_n_ && clock_s <= hold_s_) return false;
    return leave(horizon_s);
  }

 private:
  static constexpr size_t kEntry = 20, kPerPage = 32, kMaxRecent = 8192, kNewest = 512, kMost = 576, kLeave = 64;
  static constexpr i64 kRecentS = 15 * 60, kHorizonMs = 7LL * 24 * 3600 * 1000, kBotMs = 24LL * 3600 * 1000;
  static constexpr i64 kNone = std::numeric_limits<i64>::min();

  static Names& names() {
    static Names all("_d");
    return all;
  }
  static PyObject* meta_name() {
    static PyObject* name = PyBytes_FromString("_d");
    return name;
  }

  Ref encoded(size_t page) const {
    std::string entries;
    size_t end = std::min(ids_.size(), (page + 1) * kPerPage);
    for (size_t at = page * kPerPage; at < end; ++at) {
      pack(entries, ids_[at]);
      pack(entries, times_[at]);
      pack(entries, arrivals_[at]);
    }
    return page_bytes(entries);
  }

  bool leave(i64 horizon_s) {
    const size_t n = ids_.size();
    size_t n_old = std::lower_bound(arrivals_.begin(), arrivals_.end(), std::max<i64>(horizon_s, 0)) - arrivals_.begin();
    if (n > kMaxRecent) n_old = std::max(n_old, n - kMaxRecent);
    std::vector<size_t> by_time(n);
    std::iota(by_time.begin(), by_time.end(), 0);
    std::sort(by_time.begin(), by_time.end(), [&](size_t a, size_t b) {
      return std::tie(times_[a], ids_[a]) < std::tie(times_[b], ids_[b]);
    });
    by_time.resize(n - kNewest);
    std::vector<size_t> leaving;
    for (size_t at : by_time)
      if (at < n_old) leaving.push_back(at);
    const size_t free = leaving.size();
    leaving.resize(kLeave * std::min((n - kMost + kLeave - 1) / kLeave, free / kLeave));
    if (leaving.empty()) {
      // An event can free two entries more, and so can an arrival that ages: until then there is nothing to find.
      hold_n_ = n + (kLeave - free + 1) / 2;
      hold_s_ = n_old < n ? static_cast<i64>(arrivals_[n_old]) + kRecentS : 0;
      return false;
    }
    bound_ms_ = std::max(bound_ms_, times_[leaving.back()]);
    std::vector<bool> gone(n, false);
    size_t first = n;
    for (size_t at : leaving) {
      gone[at] = true;
      first = std::min(first, at);
    }
    size_t kept = 0;
    for (size_t at = 0; at < n; ++at) {
      if (gone[at]) continue;
      ids_[kept] = ids_[at];
      times_[kept] = times_[at];
      arrivals_[kept] = arrivals_[at];
      ++kept;
    }
    ids_.resize(kept);
    times_.resize(kept);
    arrivals_.resize(kept);
    for (size_t page = first / kPerPage; page < (n + kPerPage - 1) / kPerPage; ++page) dirty_.insert(page);
    meta_dirty_ = true;
    hold_n_ = 0;
    hold_s_ = 0;
    return true;
  }

  std::vector<i64> ids_, times_;
  std::vector<u32> arrivals_;
  size_t stored_pages_ = 0;
  i64 bound_ms_ = kNone, bot_until_ms_ = 0;
  std::set<size_t> dirty_;
  bool meta_dirty_ = false;
  size_t hold_n_ = 0;
  i64 hold_s_ = 0;
};

}  // namespace lr
