// Slates of usual exposures and their outcomes, summed until the end of a call of a lane: what
// streams/statistics.py and bandits/partials.py do with each of them, which say what it means. Sums lie on a grid, so
// that those of many are exact, in any order. Slates with statistics beside the shared ones are left to Python.
#pragma once

#include <deque>

#include "exposure.hpp"

namespace lr {

class Slates {
 public:
  // Enter a slate; false: it is left to Python. `emit`: knows the statistics' state.
  bool shown(const Exposure& exposure, PyObject* emit) {
    Sums* sums = of(exposure, emit);
    const size_t n_heads = exposure.head_bits.size(), size = exposure.slots[0].phi.size();
    if (sums == nullptr || size % 4 || !sums->takes(size / 4, n_heads)) return false;
    const size_t dim = size / 4, n = exposure.slots.size();
    features_.resize(n * dim);
    residuals_.resize(n * n_heads);
    for (size_t at = 0; at < n; ++at) {
      const Exposure::Slot& slot = exposure.slots[at];
      if (slot.phi.size() != size || slot.p_shown.size() != 4 * n_heads) return false;
      if (!sums->phi.round(slot.phi, &features_[at * dim])) return false;
      for (size_t head = 0; head < n_heads; ++head) {
        const double sign = exposure.head_bits[head] & kFast ? -1.0 : 0.0;
        if (!sums->residual.round(sign * exposure.expected(at, head), residuals_[at * n_heads + head])) return false;
      }
    }
    sums->begin(dim, n_heads);
    for (size_t at = 0; at < n; ++at) {
      const double* x = &features_[at * dim];
      for (size_t row = 0; row < dim; ++row)
        for (size_t column = row; column < dim; ++column) sums->a[row * dim + column] += x[row] * x[column];
      for (size_t head = 0; head < n_heads; ++head)
        for (size_t row = 0; row < dim; ++row) sums->b[head * dim + row] += residuals_[at * n_heads + head] * x[row];
    }
    sums->n_shown += static_cast<i64>(n);
    sums->newest_ms = std::max(sums->newest_ms, exposure.shown_ms);
    return true;
  }

  // Move a residual of a slate that was entered; false: it is left to Python.
  bool outcome(const Exposure& exposure, size_t at, size_t head, double delta, PyObject* emit) {
    const Exposure::Slot& slot = exposure.slots[at];
    Sums* sums = of(exposure, emit);
    const size_t dim = slot.phi.size() / 4;
    if (sums == nullptr || sums->dim != dim || head >= sums->n_heads || slot.phi.size() % 4 || !slot.variant.empty())
      return false;
    double moved;
    features_.resize(dim);
    if (!sums->phi.round(slot.phi, features_.data()) || !sums->residual.round(delta, moved)) return false;
    sums->begin(dim, sums->n_heads);
    for (size_t row = 0; row < dim; ++row) sums->b[head * dim + row] += features_[row] * moved;
    sums->newest_ms = std::max(sums->newest_ms, exposure.shown_ms);
    return true;
  }

  // Hand over what was summed: before Python looks at statistics.
  void flush(i64 partition) {
    for (Sums& sums : sums_) {
      if (sums.a.empty()) continue;
      for (size_t row = 0; row < sums.dim; ++row)
        for (size_t column = 0; column < row; ++column) sums.a[row * sums.dim + column] = sums.a[column * sums.dim + row];
      Ref a = packed(sums.a), b = packed(sums.b);
      Ref done(checked(PyObject_CallMethod(
          sums.state.get(), "add_sums", "LnnOOLL", static_cast<long long>(partition),
          static_cast<Py_ssize_t>(sums.dim), static_cast<Py_ssize_t>(sums.n_heads), a.get(), b.get(),
          static_cast<long long>(sums.n_shown), static_cast<long long>(sums.newest_ms))));
    }
    sums_.clear();
  }

 private:
  // Whole multiples of a step up to a limit.
  struct Grid {
    double step, limit;

    bool round(double value, double& out) const {
      if (!(std::abs(value) <= limit)) return false;  // too large, infinite, or not a number
      out = std::nearbyint(value * (1.0 / step)) * step;
      return true;
    }

    bool round(std::string_view floats, double* out) const {
      for (size_t at = 0; 4 * at < floats.size(); ++at)
        if (!round(static_cast<double>(load<float>(&floats[4 * at])), out[at])) return false;
      return true;
    }
  };

  struct Sums {
    std::string base_model, schema;
    Ref state;  // a streams.statistics.StatisticsState
    Grid phi, residual;
    size_t dim, n_heads;  // 0 = it holds no slate yet
    std::vector<double> a, b;  // of A, the upper triangle; empty = nothing was added
    i64 n_shown = 0, newest_ms = 0;

    bool takes(size_t dim_, size_t n_heads_) const {
      if (dim) return dim == dim_ && n_heads == n_heads_;
      return 1 <= dim_ && dim_ <= 4096 && 1 <= n_heads_ && n_heads_ <= 64;
    }

    void begin(size_t dim_, size_t n_heads_) {
      if (!a.empty()) return;
      dim = dim_;
      n_heads = n_heads_;
      a.assign(dim * dim, 0.0);
      b.assign(n_heads * dim, 0.0);
    }
  };

  // Those that an exposure moves; nullptr: it moves more.
  Sums* of(const Exposure& exposure, PyObject* emit) {
    if (exposure.more_statistics()) return nullptr;
    for (Sums& sums : sums_)
      if (sums.base_model == exposure.base_model() && sums.schema == exposure.schema()) return &sums;
    static PyObject *method = checked(PyUnicode_InternFromString("statistics"));
    Ref base_model = py_text(exposure.base_model()), schema = py_text(exposure.schema());
    PyObject* args[] = {emit, base_model.get(), schema.get()};
    Ref state(checked(PyObject_VectorcallMethod(method, args, 3, nullptr)));
    Ref dim_and_heads = attribute(state.get(), "shape"), grids = attribute(state.get(), "grids");
    auto size = [&](Py_ssize_t at) { return static_cast<size_t>(integer(PyTuple_GET_ITEM(dim_and_heads.get(), at))); };
    auto grid = [&](Py_ssize_t at) { return number(PyTuple_GET_ITEM(grids.get(), at)); };
    sums_.push_back({std::string(exposure.base_model()), std::string(exposure.schema()), state, {grid(0), grid(1)},
                     {grid(2), grid(3)}, size(0), size(1), {}, {}});
    return &sums_.back();
  }

  static Ref packed(const std::vector<double>& values) {
    return py_bytes({reinterpret_cast<const char*>(values.data()), 8 * values.size()});
  }

  std::deque<Sums> sums_;
  std::vector<double> features_, residuals_;
};

}  // namespace lr
