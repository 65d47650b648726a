// Trend, counts per surface and neighbours of an item: the same bytes as features/state/{trend,surfaces,neighbours}.py,
// which say what they mean.
#pragma once

#include "base.hpp"
#include "hash.hpp"

namespace lr {

// The compiler must not turn pow(2, x) into exp2(x), which may differ in the last bit.
inline double two_to(double x) {
  static volatile double two = 2.0;
  return std::pow(two, x);
}

// Constants of features/state/trend.py.
inline std::vector<i64> half_lives_ms;
inline i64 trend_span = 0;
inline size_t trend_cells = 0;

class Trend {
 public:
  Trend(Arguments args, Py_ssize_t n) {
    expect(n, 1, 1);
    Fields fields(args[0]);
    const size_t width = trend_cells * half_lives_ms.size() + 1;
    values_.assign(width, 0.0);
    std::string_view page = fields.body(name(), 8 * width);
    if (!page.empty()) std::memcpy(values_.data(), page.data(), 8 * width);
  }

  // add(ts_ms, good, clicks, expected, chosen)
  PyObject* add(Arguments args, Py_ssize_t n) {
    expect(n, static_cast<Py_ssize_t>(trend_cells), static_cast<Py_ssize_t>(trend_cells));
    std::vector<double> terms;
    for (Py_ssize_t at = 1; at < n; ++at) terms.push_back(number(args[at]));
    add_one(integer(args[0]), terms);
    Py_RETURN_NONE;
  }

  // `terms`: one a cell, behind the landmark.
  void add_one(i64 ts_ms, const std::vector<double>& terms) {
    const double ts = static_cast<double>(ts_ms);
    if (ts > values_.back()) values_.back() = ts;
    for (size_t at = 0; at < half_lives_ms.size(); ++at) {
      double* cells = &values_[at * trend_cells];
      const double half_life = static_cast<double>(half_lives_ms[at]);
      const double landmark = static_cast<double>(floor_div(ts_ms, trend_span * half_lives_ms[at]));
      if (landmark > cells[0]) {
        double moved = std::trunc(static_cast<double>(trend_span) * (cells[0] - landmark));
        double scale = two_to(std::max(-1074.0, moved));
        for (size_t cell = 1; cell < trend_cells; ++cell) cells[cell] *= scale;
        cells[0] = landmark;
      }
      const double factor = two_to((ts - cells[0] * static_cast<double>(trend_span) * half_life) / half_life);
      for (size_t cell = 1; cell < trend_cells; ++cell) cells[cell] += factor * terms[cell - 1];
    }
    dirty_ = true;
  }

  void gather(PyObject* changed) {
    if (dirty_)
      put(changed, name(), page_bytes({reinterpret_cast<const char*>(values_.data()), 8 * values_.size()}));
    dirty_ = false;
  }

 private:
  static PyObject* name() {
    static PyObject* made = PyBytes_FromString("item_trend:decayed");
    return made;
  }

  std::vector<double> values_;
  bool dirty_ = false;
};

// Constants of features/state/surfaces.py.
inline double surfaces_half_life_ms = 0.0;
inline i64 surfaces_landmark_ms = 0;
inline size_t surfaces_most = 0;

class SurfaceCounts {
 public:
  SurfaceCounts(Arguments args, Py_ssize_t n) {
    expect(n, 1, 1);
    Fields fields(args[0]);
    std::string_view page = fields.body(name(), kEntry);
    for (size_t at = 0; at < page.size(); at += kEntry)
      counts_.push_back({load<i64>(&page[at]), load<double>(&page[at + 8]), load<double>(&page[at + 16])});
  }

  // add(surface, ts_ms, shown, clicked)
  PyObject* add(Arguments args, Py_ssize_t n) {
    expect(n, 4, 4);
    add_one(text(args[0]), integer(args[1]), number(args[2]), number(args[3]));
    Py_RETURN_NONE;
  }

  void add_one(std::string_view surface, i64 ts_ms, double shown, double clicked) {
    if (surface.empty()) return;
    const i64 hashed = id_hash(surface);
    auto at = std::lower_bound(counts_.begin(), counts_.end(), hashed,
                               [](const Count& count, i64 wanted) { return count.surface < wanted; });
    if (at == counts_.end() || at->surface != hashed) {
      if (counts_.size() >= surfaces_most) {
        if (at == counts_.end()) return;
        const auto place = at - counts_.begin();
        counts_.pop_back();
        at = counts_.begin() + place;
      }
      at = counts_.insert(at, {hashed, 0.0, 0.0});
    }
    const double age = static_cast<double>(ts_ms - surfaces_landmark_ms) / surfaces_half_life_ms;
    const double factor = two_to(std::min(age, 1000.0));
    at->shown += factor * shown;
    at->clicked += factor * clicked;
    dirty_ = true;
  }

  void gather(PyObject* changed) {
    if (!dirty_) return;
    dirty_ = false;
    std::string page;
    for (const Count& count : counts_) {
      pack(page, count.surface);
      pack(page, count.shown);
      pack(page, count.clicked);
    }
    put(changed, name(), page_bytes(page));
  }

 private:
  static constexpr size_t kEntry = 24;

  struct Count {
    i64 surface;
    double shown, clicked;
  };

  static PyObject* name() {
    static PyObject* made = PyBytes_FromString("item_surfaces:counts");
    return made;
  }

  std::vector<Count> counts_;  // by hash
  bool dirty_ = false;
};

// Constants of features/state/neighbours.py.
inline double neighbours_half_life_ms = 0.0;
inline i64 neighbours_landmark_ms = 0;
inline size_t neighbours_most = 0, neighbours_slack = 0;

class Neighbours {
 public:
  Neighbours(Arguments args, Py_ssize_t n) {
    expect(n, 1, 1);
    Fields fields(args[0]);
    for (size_t page = 0; page < kPages; ++page) {
      std::string_view stored = fields.body(name(page));
      if (stored.empty()) continue;
      cut_[page] = stored[0] == 1;
      pages_[page] = stored.substr(1);
      size_ += pages_[page].size() / kEntry;
    }
  }

  Py_ssize_t size() const { return static_cast<Py_ssize_t>(size_); }

  // add(other_hashes, weights, event_ts_ms)
  PyObject* add(Arguments args, Py_ssize_t n) {
    expect(n, 3, 3);
    Ref others(checked(PySequence_Fast(args[0], "hashes are a sequence")));
    Ref weights(checked(PySequence_Fast(args[1], "weights are a sequence")));
    const Py_ssize_t n_others = PySequence_Fast_GET_SIZE(others.get());
    if (PySequence_Fast_GET_SIZE(weights.get()) != n_others) raise(PyExc_ValueError, "one weight a partner");
    const double factor =
        two_to(static_cast<double>(integer(args[2]) - neighbours_landmark_ms) / neighbours_half_life_ms);
    for (Py_ssize_t each = 0; each < n_others; ++each)
      add_one(integer(PySequence_Fast_GET_ITEM(others.get(), each)),
              number(PySequence_Fast_GET_ITEM(weights.get(), each)), factor);
    if (size_ > neighbours_most + neighbours_slack) drop_smallest();
    Py_RETURN_NONE;
  }

  // Hashes and weights as an ItemPairs packs them, equally many.
  void add_packed(std::string_view others, std::string_view weights, i64 ts_ms) {
    const double factor = two_to(static_cast<double>(ts_ms - neighbours_landmark_ms) / neighbours_half_life_ms);
    for (size_t at = 0; at < others.size(); at += 8)
      add_one(load<i64>(&others[at]), load<double>(&weights[at]), factor);
    if (size_ > neighbours_most + neighbours_slack) drop_smallest();
  }

  void gather(PyObject* changed) {
    for (size_t page = 0; page < kPages; ++page) {
      if (!dirty_[page]) continue;
      dirty_[page] = false;
      if (pages_[page].empty() && !cut_[page])
        put(changed, name(page), py_bytes({}));
      else
        put(changed, name(page), page_bytes((cut_[page] ? '\1' : '\0') + pages_[page]));
    }
  }

 private:
  static constexpr size_t kPages = 8, kEntry = 20;

  static PyObject* name(size_t page) {
    static Names all("item_neighbours:page_");
    return all[page];
  }

  void add_one(i64 other, double weight, double factor) {
    const size_t number = static_cast<size_t>(floor_mod(other, kPages));
    std::string& page = pages_[number];
    size_t at = 0;
    while (at < page.size() && load<i64>(&page[at]) != other) at += kEntry;
    if (at < page.size()) {
      double sum = load<double>(&page[at + 8]) + weight * factor;
      u32 pairs = load<u32>(&page[at + 16]) + (weight > 0 ? 1 : -1);
      if (static_cast<std::int32_t>(pairs) > 0) {
        std::memcpy(&page[at + 8], &sum, 8);
        std::memcpy(&page[at + 16], &pairs, 4);
      } else {
        page.erase(at, kEntry);
        --size_;
      }
    } else if (weight > 0) {
      pack(page, other);
      pack(page, weight * factor);
      pack(page, static_cast<u32>(1));
      ++size_;
    } else {
      return;  // its pair was dropped with the smallest
    }
    dirty_[number] = true;
  }

  void drop_smallest() {
    std::vector<std::pair<double, i64>> order;  // heaviest first
    for (const std::string& page : pages_)
      for (size_t at = 0; at < page.size(); at += kEntry)
        order.emplace_back(-load<double>(&page[at + 8]), load<i64>(&page[at]));
    std::sort(order.begin(), order.end());
    order.erase(order.begin(), order.begin() + neighbours_most);
    for (const auto& [_, other] : order) {
      const size_t number = static_cast<size_t>(floor_mod(other, kPages));
      std::string& page = pages_[number];
      size_t at = 0;
      while (load<i64>(&page[at]) != other) at += kEntry;
      page.erase(at, kEntry);
      cut_[number] = dirty_[number] = true;
    }
    size_ = neighbours_most;
  }

  std::string pages_[kPages];
  bool cut_[kPages] = {}, dirty_[kPages] = {};
  size_t size_ = 0;
};

}  // namespace lr
