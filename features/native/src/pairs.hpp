// Good news of one user in pairs: the same bytes as features/state/pairs.py, which says what they mean.
#pragma once

#include "hash.hpp"

namespace lr {

struct Good {
  i64 ts_ms;
  std::string item;
  i64 hashed;

  bool operator<(const Good& other) const {
    return std::tie(ts_ms, item, hashed) < std::tie(other.ts_ms, other.item, other.hashed);
  }

  void write(std::string& out) const {
    pack(out, static_cast<u32>(ts_ms));
    pack(out, static_cast<u16>(ts_ms >> 32));
    pack(out, static_cast<u8>(item.size()));
    out += item;
  }
};

// What one item met.
struct Pairing {
  std::string item;
  std::vector<i64> others;
  std::vector<double> weights;
  i64 ts_ms, hashed;

  Ref object() const {
    Ref id = py_text(item), hashes(checked(PyList_New(0))), all(checked(PyList_New(0))), time = py(ts_ms);
    for (i64 other : others) append(hashes.get(), py(other));
    for (double weight : weights) append(all.get(), Ref(checked(PyFloat_FromDouble(weight))));
    PyObject* args[] = {id.get(), hashes.get(), all.get(), time.get()};
    return Ref(checked(PyObject_Vectorcall(imported.pairing, args, 4, nullptr)));
  }
};

class Pairs {
 public:
  // Pairs(fields, partners, gap_half_life_ms)
  Pairs(Arguments args, Py_ssize_t n) {
    expect(n, 3, 3);
    Fields fields(args[0]);
    partners_ = static_cast<size_t>(integer(args[1]));
    half_life_ms_ = static_cast<double>(integer(args[2]));
    for (size_t page = 0;; ++page) {
      std::string_view stored = fields.raw(names()[page]);
      if (stored.empty()) break;
      pages_.emplace_back(fields.body(names()[page]));
      read(pages_.back());
    }
    stored_ = pages_.size();
    std::sort(sorted_.begin(), sorted_.end());
    std::string_view meta = fields.body(meta_name(), 8);
    if (!meta.empty()) floor_ms_ = load<i64>(meta.data());
  }

  Py_ssize_t size() const { return static_cast<Py_ssize_t>(sorted_.size()); }

  // add(good) -> [Pairing]
  PyObject* add(Arguments args, Py_ssize_t n) {
    expect(n, 1, 1);
    PyObject* tuple = args[0];
    if (!PyTuple_Check(tuple) || PyTuple_GET_SIZE(tuple) != 3) raise(PyExc_TypeError, "good news has three fields");
    Good good{integer(PyTuple_GET_ITEM(tuple, 0)), std::string(text(PyTuple_GET_ITEM(tuple, 1))),
              integer(PyTuple_GET_ITEM(tuple, 2))};
    Ref pairings(checked(PyList_New(0)));
    for (const Pairing& each : add_one(std::move(good))) append(pairings.get(), each.object());
    return pairings.release();
  }

  std::vector<Pairing> add_one(Good good) {
    std::vector<Pairing> pairings;
    if (partners_ == 0 || good.ts_ms <= floor_ms_) return pairings;
    size_t page = sorted_.size() / kPerPage;
    if (page == pages_.size()) pages_.emplace_back();
    good.write(pages_[page]);
    touch(page);
    const size_t n_kept = sorted_.size();
    if (sorted_.empty() || !(good < sorted_.back())) {
      with(good, n_kept > partners_ ? n_kept - partners_ : 0, n_kept, good.ts_ms, 1.0, pairings);
      sorted_.push_back(std::move(good));
    } else {
      size_t at = std::upper_bound(sorted_.begin(), sorted_.end(), good) - sorted_.begin();
      late(good, at, pairings);
      sorted_.insert(sorted_.begin() + at, std::move(good));
    }
    size_t most = kMost, held = 0;
    if (sorted_.size() * (kHead + 128) > kMaxBytes)
      for (const std::string& page : pages_) held += page.size();
    if (held > kMaxBytes) {
      most = 0;
      for (size_t size = 0; most < kMost && size <= kKeptBytes; ++most)
        size += kHead + sorted_[sorted_.size() - 1 - most].item.size();
    }
    if (sorted_.size() > most + (most == kMost ? kSlack : 0)) {
      floor_ms_ = sorted_[sorted_.size() - most - 1].ts_ms;
      meta_dirty_ = true;
      keep(sorted_.size() - most);
    }
    return pairings;
  }

  // forget(bound_ms)
  PyObject* forget(Arguments args, Py_ssize_t n) {
    expect(n, 1, 1);
    forget_until(integer(args[0]));
    Py_RETURN_NONE;
  }

  void forget_until(i64 bound_ms) {
    size_t above = 0;
    while (above < sorted_.size() && sorted_[above].ts_ms <= bound_ms) ++above;
    if (above > partners_) keep(above - partners_);
  }

  void gather(PyObject* changed) {
    if (meta_dirty_) {
      std::string meta;
      pack(meta, floor_ms_);
      put(changed, meta_name(), page_bytes(meta));
      meta_dirty_ = false;
    }
    bool any = false;
    for (size_t page = 0; page < dirty_.size(); ++page) {
      if (!dirty_[page]) continue;
      any = true;
      dirty_[page] = false;
      if (page < pages_.size())
        put(changed, names()[page], page_bytes(pages_[page]));
      else if (page < stored_)
        put(changed, names()[page], py_bytes({}));
    }
    if (any) stored_ = pages_.size();
  }

 private:
  static constexpr size_t kMost = 512, kSlack = 64, kPerPage = 32, kHead = 7, kMaxBytes = 9 * 1024, kKeptBytes = 8 * 1024;

  static Names& names() {
    static Names all("_p");
    return all;
  }
  static PyObject* meta_name() {
    static PyObject* name = PyBytes_FromString("_p");
    return name;
  }

  void touch(size_t page) {
    if (page >= dirty_.size()) dirty_.resize(page + 1, false);
    dirty_[page] = true;
  }

  void read(std::string_view packed) {
    for (size_t at = 0; at < packed.size();) {
      size_t length = packed.size() - at < kHead ? 0 : load<u8>(&packed[at + 6]);
      if (packed.size() - at < kHead + length)
        raise(imported.format_error,
              "good news cannot be read at byte " + std::to_string(at) + " (cut short); run `liverank rebuild`");
      i64 low = load<u32>(&packed[at]), high = load<u16>(&packed[at + 4]);
      std::string item(packed.substr(at + kHead, length));
      i64 hashed = id_hash(item);
      sorted_.push_back({high << 32 | low, std::move(item), hashed});
      at += kHead + length;
    }
  }

  // Pair an entry with those in [first, end).
  void with(const Good& good, size_t first, size_t end, i64 ts_ms, double sign,
            std::vector<Pairing>& out) const {
    Pairing own{good.item, {}, {}, ts_ms, good.hashed};
    for (size_t at = first; at < end; ++at) {
      const Good& other = sorted_[at];
      if (other.hashed == good.hashed) continue;
      double gap_ms = std::abs(static_cast<double>(good.ts_ms - other.ts_ms));
      const double weight = sign * std::exp2(-gap_ms / half_life_ms_);
      own.others.push_back(other.hashed);
      own.weights.push_back(weight);
      out.push_back({other.item, {good.hashed}, {weight}, ts_ms, other.hashed});
    }
    if (!own.others.empty()) out.push_back(std::move(own));
  }

  void late(const Good& good, size_t at, std::vector<Pairing>& out) const {
    const size_t n = sorted_.size(), first = at > partners_ ? at - partners_ : 0;
    with(good, first, at, good.ts_ms, 1.0, out);
    for (size_t other = at; other < std::min(n, at + partners_); ++other)
      with(good, other, other + 1, sorted_[other].ts_ms, 1.0, out);
    for (size_t before = first; before < at; ++before) {
      size_t last = before + partners_;
      if (at <= last && last < n) with(sorted_[last], before, before + 1, sorted_[last].ts_ms, -1.0, out);
    }
  }

  void keep(size_t first) {
    if (first == 0) return;
    for (size_t page = 0; page < pages_.size(); ++page) touch(page);
    sorted_.erase(sorted_.begin(), sorted_.begin() + first);
    pages_.assign((sorted_.size() + kPerPage - 1) / kPerPage, {});
    for (size_t at = 0; at < sorted_.size(); ++at) sorted_[at].write(pages_[at / kPerPage]);
  }

  size_t partners_;
  double half_life_ms_;
  std::vector<std::string> pages_;
  std::vector<Good> sorted_;
  i64 floor_ms_ = -1;
  size_t stored_ = 0;
  std::vector<bool> dirty_;
  bool meta_dirty_ = false;
};

}  // namespace lr
