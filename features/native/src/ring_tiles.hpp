// Tiles of a view by time: the same bytes as features/tiles.py, which says what they mean.
#pragma once

#include "tiles.hpp"

namespace lr {

constexpr size_t kMaxDistinct = 512;

// Newest tile of each distinct value; see features.tiles.Distinct.
struct Distinct {
  const DistinctPlan& plan;
  std::vector<std::pair<double, double>> tiles;  // (value, tile)
  std::optional<double> dropped;
  double newest = 0.0;

  size_t page_of(double value) const {
    return static_cast<size_t>(plan.first_page + floor_mod(static_cast<i64>(value), plan.n_pages));
  }

  void drop(size_t at, std::vector<bool>& dirty) {
    dirty[page_of(tiles[at].first)] = true;
    tiles[at] = tiles.back();
    tiles.pop_back();
  }

  void add(i64 tile, double value, std::vector<bool>& dirty) {
    double oldest = newest - static_cast<double>(plan.n_tiles), now = static_cast<double>(tile);
    auto found = std::find_if(tiles.begin(), tiles.end(), [&](const auto& each) { return each.first == value; });
    if (now <= oldest || (found == tiles.end() ? 0.0 : found->second) >= now) return;
    if (found == tiles.end())
      tiles.emplace_back(value, now);
    else
      found->second = now;
    dirty[page_of(value)] = true;
    if (now > newest) {
      newest = now;
      oldest = newest - static_cast<double>(plan.n_tiles);
      for (size_t at = tiles.size(); at-- > 0;)
        if (tiles[at].second <= oldest) drop(at, dirty);
      if (dropped && *dropped <= oldest) {
        dropped.reset();
        dirty[plan.first_page] = true;
      }
    }
    if (tiles.size() > kMaxDistinct) {
      auto last = std::min_element(tiles.begin(), tiles.end(), [](const auto& a, const auto& b) {
        return std::tie(a.second, a.first) < std::tie(b.second, b.first);
      });
      if (!dropped || last->second > *dropped) {
        dropped = last->second;
        dirty[plan.first_page] = true;
      }
      drop(last - tiles.begin(), dirty);
    }
  }

  std::vector<double> page(i64 at) const {
    std::vector<std::pair<double, double>> own;
    for (const auto& [value, tile] : tiles)
      if (floor_mod(static_cast<i64>(value), plan.n_pages) == at) own.emplace_back(tile, value);
    std::sort(own.begin(), own.end());
    if (at == 0 && dropped) own.insert(own.begin(), {*dropped, kDropped});
    std::vector<double> rows;
    for (const auto& [tile, value] : own) {
      rows.push_back(tile);
      rows.push_back(value);
    }
    return rows;
  }
};

class RingTiles : public Pages {
 public:
  PyObject* of_view() { return view(); }

  RingTiles(Arguments args, Py_ssize_t n) : Pages(args, n), rows_(plan_.names.size()), distinct_(plan_.distincts.size()) {}

  // add(ts_ms, row, sign=1.0, category="")
  PyObject* add(Arguments args, Py_ssize_t n) {
    expect(n, 2, 4);
    const std::vector<double> row = row_of(args[1]);
    add_row(integer(args[0]), {row.data(), row.size()}, n > 2 ? number(args[2]) : 1.0);
    Py_RETURN_NONE;
  }

  void add_row(i64 ts_ms, Row row, double sign) {
    static thread_local std::vector<Hit> hits;
    for (const RingPlan& ring : plan_.rings) {
      if (!ring.same_cells) contributions(ring.cells, row, sign, 1, hits);
      if (!hits.empty()) count(ring, floor_div(ts_ms, ring.slide_ms), hits);
    }
    if (sign > 0) {
      for (size_t at = 0; at < plan_.distincts.size(); ++at) {
        double value = row[plan_.distincts[at].column];
        if (value == value) values(at).add(floor_div(ts_ms, plan_.distincts[at].slide_ms), value, dirty_);
      }
    }
  }

  void gather(PyObject* changed) {
    take_dirty(changed, [&](size_t number) { return encode(number); });
  }

  PyObject* pages(Arguments, Py_ssize_t) {
    Ref all(checked(PyList_New(0)));
    for (size_t number = 0; number < rows_.size(); ++number)
      append(all.get(), rows_[number] ? encode(number) : py_bytes(fields_.raw(plan_.names[number].get())));
    return all.release();
  }

 private:
  std::vector<double>& decoded(size_t number) {
    if (!rows_[number]) rows_[number] = decode(number);
    return *rows_[number];
  }

  void count(const RingPlan& ring, i64 tile, const std::vector<Hit>& hits) {
    size_t number = static_cast<size_t>(ring.first_page + floor_mod(tile, ring.n_tiles) / ring.tiles_per_page);
    std::vector<double>& page = decoded(number);
    const size_t width = ring.width;
    const double now = static_cast<double>(tile), reach = static_cast<double>(ring.n_tiles);
    size_t at = page.size();
    if (at < width || page[at - width] < now) {
      page.resize(at + width);
      page[at] = now;
      empty_cells(ring.cells, &page[at + 1]);
      size_t gone = 0;
      while (page[gone] <= now - reach) gone += width;
      page.erase(page.begin(), page.begin() + gone);
      at -= gone;
    } else {
      at -= width;
      if (page[at] > now) {
        if (now <= page[at] - reach) return;
        bool before = false;  // the tile lies before every row
        while (page[at] > now) {
          if (at == 0) {
            before = true;
            break;
          }
          at -= width;
        }
        if (before || page[at] < now) {
          if (!before) at += width;
          page.insert(page.begin() + at, width, 0.0);
          page[at] = now;
          empty_cells(ring.cells, &page[at + 1]);
        }
      }
    }
    apply_hits(&page[at], hits);
    dirty_[number] = true;
  }

  Distinct& values(size_t at) {
    if (!distinct_[at]) {
      const DistinctPlan& plan = plan_.distincts[at];
      Distinct made{plan, {}, {}, 0.0};
      for (i64 number = plan.first_page; number < plan.first_page + plan.n_pages; ++number) {
        const std::vector<double>& page = decoded(number);
        for (size_t pair = 0; pair + 1 < page.size(); pair += 2) {
          if (page[pair + 1] == kDropped) {
            made.dropped = page[pair];
          } else {
            made.tiles.emplace_back(page[pair + 1], page[pair]);
            made.newest = std::max(made.newest, page[pair]);
          }
        }
      }
      distinct_[at].emplace(std::move(made));
    }
    return *distinct_[at];
  }

  Ref encode(size_t number) {
    for (const auto& found : distinct_) {
      if (!found) continue;
      i64 at = static_cast<i64>(number) - found->plan.first_page;
      if (0 <= at && at < found->plan.n_pages) return encoded(found->page(at));
    }
    return encoded(*rows_[number]);
  }

  std::vector<std::optional<std::vector<double>>> rows_;
  std::vector<std::optional<Distinct>> distinct_;
};

}  // namespace lr
