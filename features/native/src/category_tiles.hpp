// Tiles of a view by time and category: the same bytes as features/category_tiles.py, which says what they mean.
#pragma once

#include "tiles.hpp"

namespace lr {

constexpr i64 kRings = 8;  // features/windows.py N_KEYS
constexpr size_t kMaxCategories = 16;
constexpr u64 kMix = 0x9E3779B97F4A7ULL;

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
