// Tiles of a view: the same bytes as features/tiles.py and features/category_tiles.py, which say what they mean.
#pragma once

#include <optional>

#include "hash.hpp"

namespace lr {

constexpr int kSum = 0, kCount = 1, kMin = 2, kMax = 3;
constexpr double kDropped = -1.0;
constexpr double kNull = std::numeric_limits<double>::quiet_NaN();
constexpr size_t kMaxDistinct = 512;
constexpr i64 kRings = 8;  // features/windows.py N_KEYS
constexpr size_t kMaxCategories = 16;
constexpr u64 kMix = 0x9E3779B97F4A7ULL;

struct Cell {
  int op;
  size_t column;
};

struct Hit {
  size_t cell;
  int op;
  double value;
};

struct RingPlan {
  i64 slide_ms, n_tiles, first_page, n_pages, tiles_per_page;
  size_t width;
  std::vector<Cell> cells;
  bool same_cells;  // as the ring before
};

struct DistinctPlan {
  i64 slide_ms, n_tiles, first_page, n_pages;
  size_t column;
};

// The layout of one view, shared by all its keys.
struct Plan {
  std::vector<RingPlan> rings;
  std::vector<DistinctPlan> distincts;
  std::vector<Ref> names;

  Plan(Arguments args, Py_ssize_t n) {
    expect(n, 1, 1);
    Ref layout = attribute(args[0], "layout");
    Ref rings_ = attribute(layout.get(), "rings");
    for (Py_ssize_t at = 0; at < PyTuple_GET_SIZE(rings_.get()); ++at) {
      PyObject* ring = PyTuple_GET_ITEM(rings_.get(), at);
      RingPlan plan{int_attribute(ring, "slide_ms"), int_attribute(ring, "n_tiles"), int_attribute(ring, "first_page"),
                    int_attribute(ring, "n_pages"), int_attribute(ring, "tiles_per_page"),
                    static_cast<size_t>(int_attribute(ring, "width")), {}, false};
      Ref cells = attribute(ring, "cells");
      for (Py_ssize_t c = 0; c < PyTuple_GET_SIZE(cells.get()); ++c) {
        PyObject* cell = PyTuple_GET_ITEM(cells.get(), c);
        plan.cells.push_back({static_cast<int>(integer(PyTuple_GET_ITEM(cell, 0))),
                              static_cast<size_t>(integer(PyTuple_GET_ITEM(cell, 1)))});
      }
      if (!rings.empty()) {
        const auto& before = rings.back().cells;
        plan.same_cells = std::equal(before.begin(), before.end(), plan.cells.begin(), plan.cells.end(),
                                     [](const Cell& a, const Cell& b) { return a.op == b.op && a.column == b.column; });
      }
      rings.push_back(std::move(plan));
    }
    Ref distincts_ = attribute(layout.get(), "distincts");
    for (Py_ssize_t at = 0; at < PyTuple_GET_SIZE(distincts_.get()); ++at) {
      PyObject* ring = PyTuple_GET_ITEM(distincts_.get(), at);
      distincts.push_back({int_attribute(ring, "slide_ms"), int_attribute(ring, "n_tiles"),
                           int_attribute(ring, "first_page"), int_attribute(ring, "n_pages"),
                           static_cast<size_t>(int_attribute(ring, "column"))});
    }
    Ref fields = attribute(args[0], "page_fields");
    for (Py_ssize_t at = 0; at < PyTuple_GET_SIZE(fields.get()); ++at)
      names.push_back(Ref::borrowed(PyTuple_GET_ITEM(fields.get(), at)));
  }
};

// The numbers of one event.
struct Row {
  const double* values;
  size_t n;

  double operator[](size_t at) const {
    if (at >= n) raise(PyExc_IndexError, "a row is shorter than its view");
    return values[at];
  }
};

// A row that Python hands over, a tuple or list of floats.
inline std::vector<double> row_of(PyObject* object) {
  Ref fast(checked(PySequence_Fast(object, "a row is a sequence")));
  std::vector<double> values(PySequence_Fast_GET_SIZE(fast.get()));
  for (size_t at = 0; at < values.size(); ++at) values[at] = number(PySequence_Fast_GET_ITEM(fast.get(), at));
  return values;
}

inline void contributions(const std::vector<Cell>& cells, Row row, double sign, size_t first,
                          std::vector<Hit>& hits) {
  hits.clear();
  for (size_t at = 0; at < cells.size(); ++at) {
    double value = row[cells[at].column];
    if (value != value) continue;
    if (cells[at].op == kSum) {
      if (value != 0.0) hits.push_back({first + at, kSum, sign * value});
    } else if (cells[at].op == kCount) {
      hits.push_back({first + at, kSum, sign});
    } else if (sign > 0) {
      hits.push_back({first + at, cells[at].op, value});
    }
  }
}

inline void apply_hits(double* row, const std::vector<Hit>& hits) {
  for (const Hit& hit : hits) {
    double& cell = row[hit.cell];
    if (hit.op == kSum)
      cell += hit.value;
    else if (cell != cell || (hit.op == kMin ? hit.value < cell : hit.value > cell))
      cell = hit.value;
  }
}

inline void empty_cells(const std::vector<Cell>& cells, double* out) {
  for (size_t at = 0; at < cells.size(); ++at) out[at] = cells[at].op <= kCount ? 0.0 : kNull;
}

// Common to both kinds: pages by number, those that changed, and where the rest is stored.
class Pages {
 public:
  Pages(Arguments args, Py_ssize_t n)
      : plan_object_((expect(n, 3, 3), Ref::borrowed(args[0]))),
        plan_(*reinterpret_cast<Box<Plan>*>(args[0])->value),
        view_(Ref::borrowed(args[1])),
        fields_(args[2]),
        dirty_(plan_.names.size(), false) {}

  PyObject* view() { return Py_NewRef(view_.get()); }

 protected:
  std::vector<double> decode(size_t number) const {
    PyObject* name = plan_.names[number].get();
    std::string_view page = fields_.raw(name);
    std::vector<double> rows;
    if (page.empty()) return rows;
    if (page[0] != 1 || (page.size() - 1) % 8) {
      Ref stored = py_bytes(page);
      Ref unread(checked(PyObject_CallOneArg(imported.tile_page, stored.get())));
    }
    rows.resize((page.size() - 1) / 8);
    std::memcpy(rows.data(), page.data() + 1, page.size() - 1);
    return rows;
  }

  static Ref encoded(const std::vector<double>& rows) {
    return page_or_nothing({reinterpret_cast<const char*>(rows.data()), rows.size() * 8});
  }

  template <class Encode>
  void take_dirty(PyObject* changed, Encode encode) {
    for (size_t number = 0; number < dirty_.size(); ++number) {
      if (!dirty_[number]) continue;
      put(changed, plan_.names[number].get(), encode(number));
      dirty_[number] = false;
    }
  }

  Ref plan_object_;
  const Plan& plan_;
  Ref view_;
  Fields fields_;
  std::vector<bool> dirty_;
};

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

class CategoryTiles : public Pages {
 public:
  PyObject* of_view() { return view(); }

  CategoryTiles(Arguments args, Py_ssize_t n) : Pages(args, n), pages_(plan_.names.size()) {
    width_ = plan_.rings[0].width;
    empty_.resize(plan_.rings[0].cells.size());
    empty_cells(plan_.rings[0].cells, empty_.data());
  }

  // add(ts_ms, row, sign=1.0, category="")
  PyObject* add(Arguments args, Py_ssize_t n) {
    expect(n, 2, 4);
    if (n < 4 || PyUnicode_GetLength(args[3]) == 0) Py_RETURN_NONE;
    const std::vector<double> row = row_of(args[1]);
    add_row(integer(args[0]), {row.data(), row.size()}, number(args[2]), text_hash(text(args[3])));
    Py_RETURN_NONE;
  }

  // `group`: hash of the category.
  void add_row(i64 ts_ms, Row values, double sign, double group) {
    const RingPlan& first = plan_.rings[0];
    static thread_local std::vector<Hit> hits;
    contributions(first.cells, values, sign, 2, hits);
    if (hits.empty()) return;
    size_t number = static_cast<size_t>(floor_mod(static_cast<i64>(group), first.n_pages));
    Page& page = decoded(number);
    for (size_t at = 0; at < plan_.rings.size(); ++at) {
      const RingPlan& ring = plan_.rings[at];
      i64 tile = floor_div(ts_ms, ring.slide_ms);
      i64& newest = page.newest[at];
      if (tile <= newest - ring.n_tiles) continue;
      if (tile > newest) {
        if (newest >= 0) prune(page, static_cast<double>(at), static_cast<double>((tile - ring.n_tiles) * kRings + static_cast<i64>(at)));
        newest = tile;
      }
      Key key{static_cast<double>(tile * kRings + static_cast<i64>(at)), group};
      size_t row = lower(page, key);
      if (row == page.n(width_) || page.key(row, width_) != key) {
        put_row(page, row, key);
        if (page.n(width_) > kMaxCategories) {
          if (limit(page, key)) continue;
          row = lower(page, key);
        }
      }
      apply_hits(&page.rows[row * width_], hits);
    }
    dirty_[number] = true;
  }

  void gather(PyObject* changed) {
    take_dirty(changed, [&](size_t number) { return packed(pages_[number]->rows); });
  }

  PyObject* pages(Arguments, Py_ssize_t) {
    Ref all(checked(PyList_New(0)));
    for (size_t number = 0; number < pages_.size(); ++number)
      append(all.get(),
             pages_[number] ? packed(pages_[number]->rows) : py_bytes(fields_.raw(plan_.names[number].get())));
    return all.release();
  }

 private:
  using Key = std::pair<double, double>;

  struct Page {
    std::vector<double> rows;
    std::vector<i64> newest = std::vector<i64>(kRings, -1);
    size_t n(size_t width) const { return rows.size() / width; }
    Key key(size_t row, size_t width) const { return {rows[row * width], rows[row * width + 1]}; }
  };

  Page& decoded(size_t number) {
    if (!pages_[number]) {
      Page page;
      page.rows = unpacked(number);
      for (size_t at = 0; at < page.rows.size(); at += width_) {
        i64 stamp = static_cast<i64>(page.rows[at]);
        i64& newest = page.newest[stamp % kRings];
        newest = std::max(newest, stamp / kRings);
      }
      pages_[number] = std::move(page);
    }
    return *pages_[number];
  }

  // The page as stored (docs/specs/tiles.md): stamps and hashes once each, cells by column in as few bytes as they need.
  Ref packed(const std::vector<double>& rows) const {
    if (rows.empty()) return py_bytes({});
    const size_t n = rows.size() / width_;
    static thread_local std::vector<double> hashes;
    hashes.clear();
    for (size_t row = 0; row < n; ++row) hashes.push_back(rows[row * width_ + 1]);
    std::sort(hashes.begin(), hashes.end());
    hashes.erase(std::unique(hashes.begin(), hashes.end()), hashes.end());
    std::string stamps, counts, index, out;
    size_t n_stamps = 0;
    for (size_t row = 0; row < n; ++row) {
      const double stamp = rows[row * width_];
      if (row == 0 || stamp != rows[(row - 1) * width_]) {
        pack(stamps, stamp);
        counts.push_back('\0');
        ++n_stamps;
      }
      ++counts.back();
      size_t at = std::lower_bound(hashes.begin(), hashes.end(), rows[row * width_ + 1]) - hashes.begin();
      if (hashes.size() > 256)
        pack(index, static_cast<u16>(at));
      else
        index.push_back(static_cast<char>(at));
    }
    out.reserve(7 + stamps.size() + 8 * hashes.size() + counts.size() + index.size() + (width_ - 2) * (1 + 2 * n));
    out.push_back('\2');
    pack(out, static_cast<u16>(n));
    pack(out, static_cast<u16>(n_stamps));
    pack(out, static_cast<u16>(hashes.size()));
    out += stamps;
    out.append(reinterpret_cast<const char*>(hashes.data()), 8 * hashes.size());
    out += counts;
    out += index;
    for (size_t column = 2; column < width_; ++column) {
      const size_t size = cell_size(rows, column);
      out.push_back(static_cast<char>(size));
      if (size == 0) continue;
      for (size_t at = column; at < rows.size(); at += width_) {
        const double cell = rows[at];
        if (size == 1)
          pack(out, static_cast<u8>(cell));
        else if (size == 2)
          pack(out, static_cast<std::int16_t>(cell));
        else if (size == 4)
          pack(out, static_cast<std::int32_t>(cell));
        else
          pack(out, cell);
      }
    }
    return py_bytes(out);
  }

  size_t cell_size(const std::vector<double>& rows, size_t column) const {
    double least = rows[column], most = least;
    bool zero = true, whole = true;
    for (size_t at = column; at < rows.size(); at += width_) {
      const double cell = rows[at];
      zero &= cell == 0.0;
      whole &= cell == std::floor(cell);
      least = std::min(least, cell);
      most = std::max(most, cell);
    }
    if (zero) return 0;
    if (!whole || least < -2147483648.0 || most >= 2147483648.0) return 8;
    if (least >= 0.0 && most < 256.0) return 1;
    return least >= -32768.0 && most < 32768.0 ? 2 : 4;
  }

  std::vector<double> unpacked(size_t number) const {
    std::string_view page = fields_.raw(plan_.names[number].get());
    std::vector<double> rows;
    if (page.empty()) return rows;
    auto refuse = [&] {
      Ref stored = py_bytes(page);
      Ref unread(checked(PyObject_CallOneArg(imported.packed_page, stored.get())));
      raise(imported.row_error, "a page of categories cannot be read (cut short); run `liverank rebuild`");
    };
    if (page[0] != 2 || page.size() < 7) refuse();
    const size_t n = load<u16>(&page[1]), n_stamps = load<u16>(&page[3]), n_hashes = load<u16>(&page[5]);
    const size_t index_size = n_hashes > 256 ? 2 : 1;
    size_t at = 7;
    auto take = [&](size_t size) {
      if (page.size() - at < size) refuse();
      at += size;
      return page.data() + at - size;
    };
    const char* stamps = take(8 * n_stamps);
    const char* hashes = take(8 * n_hashes);
    const char* counts = take(n_stamps);
    const char* index = take(index_size * n);
    rows.assign(n * width_, 0.0);
    size_t row = 0;
    for (size_t stamp = 0; stamp < n_stamps; ++stamp)
      for (size_t left = load<u8>(counts + stamp); left > 0; --left, ++row) {
        if (row == n) refuse();
        rows[row * width_] = load<double>(stamps + 8 * stamp);
      }
    if (row != n) refuse();
    for (row = 0; row < n; ++row) {
      const size_t hash = index_size == 2 ? load<u16>(index + 2 * row) : load<u8>(index + row);
      if (hash >= n_hashes) refuse();
      rows[row * width_ + 1] = load<double>(hashes + 8 * hash);
    }
    for (size_t column = 2; column < width_; ++column) {
      const size_t size = load<u8>(take(1));
      if (size != 0 && size != 1 && size != 2 && size != 4 && size != 8) refuse();
      const char* cells = take(size * n);
      for (row = 0; size != 0 && row < n; ++row) {
        const char* cell = cells + size * row;
        rows[row * width_ + column] = size == 1   ? load<u8>(cell)
                                      : size == 2 ? load<std::int16_t>(cell)
                                      : size == 4 ? load<std::int32_t>(cell)
                                                  : load<double>(cell);
      }
    }
    return rows;
  }

  size_t lower(const Page& page, const Key& key) const {
    size_t low = 0, high = page.n(width_);
    while (low < high) {
      size_t middle = (low + high) / 2;
      if (page.key(middle, width_) < key)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }

  void put_row(Page& page, size_t row, const Key& key) const {
    auto at = page.rows.insert(page.rows.begin() + row * width_, width_, 0.0);
    at[0] = key.first;
    at[1] = key.second;
    std::copy(empty_.begin(), empty_.end(), at + 2);
  }

  // Drop the rows of one ring up to a stamp.
  void prune(Page& page, double ring, double last) const {
    auto& rows = page.rows;
    size_t kept = 0;
    for (size_t at = 0; at < rows.size(); at += width_) {
      bool gone = rows[at] <= last && std::fmod(rows[at], static_cast<double>(kRings)) == ring;
      if (gone) continue;
      if (kept != at) std::copy(rows.begin() + at, rows.begin() + at + width_, rows.begin() + kept);
      kept += width_;
    }
    rows.resize(kept);
  }

  bool limit(Page& page, const Key& key) const {
    size_t first = lower(page, {key.first, 0.0});
    size_t end = lower(page, {key.first, std::numeric_limits<double>::infinity()});
    if (end - first <= kMaxCategories) return false;
    u64 salt = static_cast<u64>(key.first) * kMix & ((1ULL << 53) - 1);
    size_t last = first;
    u64 most = 0;
    for (size_t at = first; at < end; ++at) {
      u64 rank = static_cast<u64>(page.key(at, width_).second) ^ salt;
      if (at == first || rank > most) {
        last = at;
        most = rank;
      }
    }
    Key dropped = page.key(last, width_);
    page.rows.erase(page.rows.begin() + last * width_, page.rows.begin() + (last + 1) * width_);
    Key flag{key.first, kDropped};
    size_t at = lower(page, flag);
    // Rows of this stamp are left, so there is a row at `at`.
    if (page.key(at, width_) != flag) put_row(page, at, flag);
    return dropped == key;
  }

  size_t width_ = 0;
  std::vector<double> empty_;
  std::vector<std::optional<Page>> pages_;
};

}  // namespace lr
