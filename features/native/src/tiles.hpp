// What tiles of every kind share: the layout of a view, the numbers of an event, pages. See features/tiles.py.
#pragma once

#include <optional>

#include "hash.hpp"

namespace lr {

constexpr int kSum = 0, kCount = 1, kMin = 2, kMax = 3;
constexpr double kDropped = -1.0;
constexpr double kNull = std::numeric_limits<double>::quiet_NaN();

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

}  // namespace lr
