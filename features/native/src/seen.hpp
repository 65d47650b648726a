// What one user has seen: the same bytes as features/state/seen.py, which says what they mean.
#pragma once

#include "base.hpp"

namespace lr {

class Seen {
 public:
  Seen(Arguments args, Py_ssize_t n) : fields_((expect(n, 1, 1), args[0])) {}

  // mark(item_hash, ts_ms)
  PyObject* mark(Arguments args, Py_ssize_t n) {
    expect(n, 2, 2);
    mark_one(integer(args[0]), integer(args[1]));
    Py_RETURN_NONE;
  }

  void mark_one(i64 item, i64 ts_ms) {
    Part& part = at(shown_, item, shown_names(), 1);
    u32 ts_s = seconds(ts_ms);
    pack(part.page, item);
    pack(part.page, ts_s);
    if (part.page.size() > (kPerPage + kSlack) * kMark) keep_newest<Mark>(part.page);
    part.dirty = true;
  }

  // unmark(item_hash, ts_ms)
  PyObject* unmark(Arguments args, Py_ssize_t n) {
    expect(n, 2, 2);
    unmark_one(integer(args[0]), integer(args[1]));
    Py_RETURN_NONE;
  }

  void unmark_one(i64 item, i64 ts_ms) {
    u32 ts_s = seconds(ts_ms);
    Part& part = at(shown_, item, shown_names(), 1);
    for (size_t row = 0; row < part.page.size(); row += kMark) {
      if (load<i64>(&part.page[row]) != item || load<u32>(&part.page[row + 8]) != ts_s) continue;
      part.page.erase(row, kMark);
      part.dirty = true;
      break;
    }
  }

  // act(item_hash, act, ts_ms)
  PyObject* act(Arguments args, Py_ssize_t n) {
    expect(n, 3, 3);
    act_one(integer(args[0]), static_cast<u8>(integer(args[1])), integer(args[2]));
    Py_RETURN_NONE;
  }

  void act_one(i64 item, u8 act, i64 ts_ms) {
    u32 ts_s = seconds(ts_ms);
    Part& part = at(acted_, item, acted_names(), 1);
    size_t row = 0;
    while (row < part.page.size() && (load<i64>(&part.page[row]) != item || load<u8>(&part.page[row + 8]) != act))
      row += kAct;
    if (row == part.page.size()) {
      pack(part.page, item);
      pack(part.page, act);
      pack(part.page, ts_s);
      if (part.page.size() > (kPerPage + kSlack) * kAct) keep_newest<Act>(part.page);
    } else if (load<u32>(&part.page[row + 9]) < ts_s) {
      std::memcpy(&part.page[row + 9], &ts_s, sizeof(ts_s));
    } else {
      return;
    }
    part.dirty = true;
  }

  void gather(PyObject* changed) {
    for (size_t page = 0; page < kPages; ++page) take(shown_[page], shown_names()[page], changed);
    for (size_t page = 0; page < kPages; ++page) take(acted_[page], acted_names()[page], changed);
  }

 private:
  static constexpr size_t kPages = 4, kPerPage = 512, kSlack = 32, kMark = 12, kAct = 13;

  struct Part {
    std::string page;
    bool loaded = false, dirty = false;
  };

  struct Mark {
    static constexpr size_t size = kMark;
    static auto key(const char* row) { return std::make_pair(load<u32>(row + 8), load<i64>(row)); }
  };
  struct Act {
    static constexpr size_t size = kAct;
    static auto key(const char* row) { return std::make_tuple(load<u32>(row + 9), load<i64>(row), load<u8>(row + 8)); }
  };

  static Names& shown_names() {
    static Names all("user_seen:shown_");
    return all;
  }
  static Names& acted_names() {
    static Names all("user_seen:acted_");
    return all;
  }

  static u32 seconds(i64 ts_ms) {
    i64 ts_s = floor_div(ts_ms, 1000);
    if (ts_s < 0 || ts_s > std::numeric_limits<u32>::max())
      raise(PyExc_OverflowError, "an event time lies outside 1970 to 2106");
    return static_cast<u32>(ts_s);
  }

  Part& at(Part* parts, i64 item, Names& names, size_t size) {
    size_t number = static_cast<size_t>(floor_mod(item, kPages));
    Part& part = parts[number];
    if (!part.loaded) {
      part.page = fields_.body(names[number], size);
      part.loaded = true;
    }
    return part;
  }

  template <class Row>
  static void keep_newest(std::string& page) {
    std::vector<std::string_view> rows;
    for (size_t at = 0; at < page.size(); at += Row::size) rows.push_back(std::string_view(page).substr(at, Row::size));
    std::sort(rows.begin(), rows.end(), [](auto a, auto b) { return Row::key(a.data()) < Row::key(b.data()); });
    std::string kept;
    for (size_t row = rows.size() - kPerPage; row < rows.size(); ++row) kept += rows[row];
    page = std::move(kept);
  }

  static void take(Part& part, PyObject* name, PyObject* changed) {
    if (!part.dirty) return;
    put(changed, name, page_or_nothing(part.page));
    part.dirty = false;
  }

  Fields fields_;
  Part shown_[kPages], acted_[kPages];
};

}  // namespace lr
