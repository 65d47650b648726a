// What left the newest signals of one user: the same bytes as features/state/older.py, which says what they mean.
#pragma once

#include <map>

#include "base.hpp"
#include "entry.hpp"

namespace lr {

class Older {
 public:
  Older() = default;

  explicit Older(const Fields& fields) {
    for (size_t page = 0; page < kPages; ++page) {
      std::string_view packed = fields.body(name(page), kSize);
      for (size_t at = 0; at < packed.size(); at += kSize) {
        Kept kept = unpack(&packed[at]);
        weeks_[kept.ts_ms / kWeekMs].push_back(kept);
        times_.push_back(kept.ts_ms);
      }
    }
    for (auto& [number, week] : weeks_) std::sort(week.begin(), week.end());
    std::sort(times_.begin(), times_.end());
  }

  const std::vector<i64>& times_ms() const { return times_; }

  bool add(const Entry& entry) {
    Kept kept{priority(entry.item, entry.ts_ms, entry.sixteenths), entry.ts_ms, entry.item, entry.kind,
              entry.sixteenths};
    i64 number = kept.ts_ms / kWeekMs;
    auto found = weeks_.find(number);
    if (found == weeks_.end()) {
      if (weeks_.size() >= kWeeks) {
        if (number < weeks_.begin()->first) return false;
        drop_oldest();
      }
      found = weeks_.emplace(number, std::vector<Kept>{}).first;
    }
    std::vector<Kept>& week = found->second;
    if (week.size() == kKept) {
      if (!(week.front() < kept)) return false;
      forget(week.front().ts_ms);
      week.erase(week.begin());
    }
    week.insert(std::upper_bound(week.begin(), week.end(), kept), kept);
    times_.insert(std::upper_bound(times_.begin(), times_.end(), kept.ts_ms), kept.ts_ms);
    dirty_[static_cast<size_t>(number) % kPages] = true;
    return true;
  }

  void gather(PyObject* changed) {
    for (size_t page = 0; page < kPages; ++page) {
      if (!dirty_[page]) continue;
      std::string packed;
      for (const auto& [number, week] : weeks_) {
        if (static_cast<size_t>(number) % kPages != page) continue;
        for (const Kept& kept : week) {
          pack(packed, static_cast<u32>(kept.ts_ms));
          pack(packed, static_cast<u16>(kept.ts_ms >> 32));
          pack(packed, static_cast<signed char>(kept.sixteenths));
          pack(packed, static_cast<u8>(kept.kind));
          pack(packed, kept.item);
        }
      }
      put(changed, name(page), page_or_nothing(packed));
      dirty_[page] = false;
    }
  }

 private:
  static constexpr i64 kWeekMs = 7LL * 86'400'000;
  static constexpr size_t kWeeks = 27, kKept = 25, kPages = 9, kSize = 16;

  struct Kept {
    double priority;
    i64 ts_ms, item, kind, sixteenths;

    bool operator<(const Kept& other) const {
      return std::tie(priority, ts_ms, item, kind, sixteenths) <
             std::tie(other.priority, other.ts_ms, other.item, other.kind, other.sixteenths);
    }
  };

  static Kept unpack(const char* data) {
    i64 low = load<u32>(data), high = load<u16>(data + 4), ts_ms = high << 32 | low;
    i64 sixteenths = load<signed char>(data + 6), item = load<i64>(data + 8);
    return {priority(item, ts_ms, sixteenths), ts_ms, item, load<u8>(data + 7), sixteenths};
  }

  static PyObject* name(size_t page) {
    static Names all("user_history:older_");
    return all[page];
  }

  static double priority(i64 item, i64 ts_ms, i64 sixteenths) {
    u64 x = static_cast<u64>(item) * 0x9E3779B97F4A7C15ULL + static_cast<u64>(ts_ms);
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
    x ^= x >> 31;
    i64 magnitude = sixteenths > 0 ? 4 * sixteenths : -sixteenths;
    return static_cast<double>(magnitude) / (static_cast<double>((x >> 11) + 1) * 0x1p-53);
  }

  void forget(i64 ts_ms) { times_.erase(std::lower_bound(times_.begin(), times_.end(), ts_ms)); }

  void drop_oldest() {
    auto oldest = weeks_.begin();
    for (const Kept& kept : oldest->second) forget(kept.ts_ms);
    dirty_[static_cast<size_t>(oldest->first) % kPages] = true;
    weeks_.erase(oldest);
  }

  std::map<i64, std::vector<Kept>> weeks_;
  std::vector<i64> times_;
  bool dirty_[kPages] = {};
};

}  // namespace lr
