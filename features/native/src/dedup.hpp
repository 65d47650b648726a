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
      std::string_view page = fields.body(names()[stored_pages_], 1, 2);
      if (page.empty()) break;
      read(page);
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
  int verdict(i64 id_hash, i64 ts_ms, i64 clock_ms) const {
    const i64 id = id_hash >> 8;
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
  bool add_one(i64 id_hash, i64 ts_ms, i64 clock_ms) {
    i64 clock_s = floor_div(clock_ms, 1000);
    if (clock_s < 0 || clock_s > std::numeric_limits<u32>::max())
      raise(PyExc_OverflowError, "the partition clock lies outside 1970 to 2106");
    ids_.push_back(id_hash >> 8);
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
  static constexpr size_t kHead = 14, kId = 7, kPerPage = 32, kMaxRecent = 8192, kNewest = 512, kMost = 576, kLeave = 64;
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

  // Smallest event time and arrival, bytes of the offsets from them, then ids, offsets, offsets.
  Ref encoded(size_t page) const {
    const size_t first = page * kPerPage, end = std::min(ids_.size(), first + kPerPage);
    auto [oldest, newest] = std::minmax_element(times_.begin() + first, times_.begin() + end);
    auto [earliest, latest] = std::minmax_element(arrivals_.begin() + first, arrivals_.begin() + end);
    const i64 base_ms = *oldest, base_s = *earliest;
    const size_t time_bytes = bytes_for(static_cast<u64>(*newest - base_ms));
    const size_t arrival_bytes = bytes_for(static_cast<u64>(*latest - base_s));
    std::string out;
    out.reserve(kHead + kPerPage * (kId + time_bytes + arrival_bytes));
    pack(out, base_ms);
    pack(out, static_cast<u32>(base_s));
    pack(out, static_cast<u8>(time_bytes));
    pack(out, static_cast<u8>(arrival_bytes));
    auto put_low = [&](i64 value, size_t size) { out.append(reinterpret_cast<const char*>(&value), size); };
    for (size_t at = first; at < end; ++at) put_low(ids_[at], kId);
    for (size_t at = first; at < end; ++at) put_low(times_[at] - base_ms, time_bytes);
    for (size_t at = first; at < end; ++at) put_low(static_cast<i64>(arrivals_[at]) - base_s, arrival_bytes);
    return page_bytes(out, 2);
  }

  static size_t bytes_for(u64 most) { return (static_cast<size_t>(std::bit_width(most)) + 7) / 8; }

  void read(std::string_view page) {
    const size_t time_bytes = page.size() < kHead ? 9 : load<u8>(&page[12]), arrival_bytes = page.size() < kHead ? 9 : load<u8>(&page[13]);
    const size_t entry = kId + time_bytes + arrival_bytes;
    if (time_bytes > 8 || arrival_bytes > 8 || (page.size() - kHead) % entry)
      raise(imported.format_error, "event ids cannot be read (cut short); run `liverank rebuild`");
    const i64 base_ms = load<i64>(page.data()), base_s = load<u32>(&page[8]);
    const size_t n = (page.size() - kHead) / entry;
    const char* at = page.data() + kHead;
    auto low = [&](size_t size) {
      i64 value = 0;
      std::memcpy(&value, at, size);
      at += size;
      return value;
    };
    for (size_t row = 0; row < n; ++row) ids_.push_back(static_cast<i64>(static_cast<u64>(low(kId)) << 8) >> 8);
    for (size_t row = 0; row < n; ++row) times_.push_back(base_ms + low(time_bytes));
    for (size_t row = 0; row < n; ++row) arrivals_.push_back(static_cast<u32>(base_s + low(arrival_bytes)));
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
