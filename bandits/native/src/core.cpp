// Counting the votes of posterior draws: the same numbers as bandits/votes.py, which says what they mean.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

namespace {

struct Raised {};  // a Python error is set

// A buffer of one type, held while this lives.
template <class T>
class Buffer {
 public:
  Buffer(PyObject* object, int flags) {
    if (PyObject_GetBuffer(object, &view_, flags) < 0) throw Raised{};
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { PyBuffer_Release(&view_); }
  T* data() const { return static_cast<T*>(view_.buf); }
  Py_ssize_t size() const { return view_.len / static_cast<Py_ssize_t>(sizeof(T)); }

 private:
  Py_buffer view_;
};

using Arguments = PyObject* const*;

template <class F>
PyObject* guarded(Py_ssize_t n, Py_ssize_t wanted, F call) {
  if (n != wanted) return PyErr_Format(PyExc_TypeError, "%zd arguments wanted, got %zd", wanted, n);
  try {
    return call();
  } catch (const Raised&) {
    return nullptr;
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
  }
}

void refuse(bool wrong, const char* text) {
  if (!wrong) return;
  PyErr_SetString(PyExc_ValueError, text);
  throw Raised{};
}

PyObject* number(double value) { return PyFloat_FromDouble(value); }
PyObject* number(std::int32_t value) { return PyLong_FromLong(value); }

template <class T>
PyObject* list_of(const std::vector<T>& values) {
  PyObject* made = PyList_New(static_cast<Py_ssize_t>(values.size()));
  if (made == nullptr) throw Raised{};
  for (size_t at = 0; at < values.size(); ++at) {
    PyObject* value = number(values[at]);
    if (value == nullptr) {
      Py_DECREF(made);
      throw Raised{};
    }
    PyList_SET_ITEM(made, static_cast<Py_ssize_t>(at), value);
  }
  return made;
}

// The first of the largest of some places of a row.
std::int32_t best_of(const double* row, const std::vector<std::int32_t>& places) {
  double lanes[4] = {-HUGE_VAL, -HUGE_VAL, -HUGE_VAL, -HUGE_VAL};  // the largest, without one long chain
  const size_t n = places.size();
  size_t at = 0;
  for (; at + 4 <= n; at += 4)
    for (size_t lane = 0; lane < 4; ++lane) {
      const double value = row[places[at + lane]];
      lanes[lane] = value > lanes[lane] ? value : lanes[lane];
    }
  for (; at < n; ++at) lanes[0] = row[places[at]] > lanes[0] ? row[places[at]] : lanes[0];
  const double largest = std::max(std::max(lanes[0], lanes[1]), std::max(lanes[2], lanes[3]));
  for (const std::int32_t place : places)
    if (row[place] == largest) return place;
  return places[0];  // scores that are no numbers
}

// votes(scores, alive, winners) -> counts; moves `winners` (-1 = none yet) of the draws whose winner is not alive
PyObject* votes(PyObject*, Arguments args, Py_ssize_t n_args) {
  return guarded(n_args, 3, [&] {
    const Buffer<const double> scores(args[0], PyBUF_C_CONTIGUOUS);
    const Buffer<const std::uint8_t> alive(args[1], PyBUF_SIMPLE);
    const Buffer<std::int32_t> winners(args[2], PyBUF_WRITABLE);
    const Py_ssize_t n = alive.size(), n_draws = winners.size();
    refuse(scores.size() != n * n_draws, "scores of shape (draws, candidates) wanted");
    std::vector<std::int32_t> counts(static_cast<size_t>(n), 0), places;
    for (std::int32_t place = 0; place < n; ++place)
      if (alive.data()[place]) places.push_back(place);
    for (Py_ssize_t draw = 0; draw < n_draws && !places.empty(); ++draw) {
      std::int32_t& winner = winners.data()[draw];
      refuse(winner >= n, "a winner is no candidate");
      if (winner < 0 || !alive.data()[winner]) winner = best_of(scores.data() + draw * n, places);
      ++counts[static_cast<size_t>(winner)];
    }
    return list_of(counts);
  });
}

// The `taken` largest of some places of a row, largest first, without a branch.
template <size_t taken>
void largest(const double* row, const std::vector<std::int32_t>& places, double* ranked) {
  double ranks[taken];
  for (double& rank : ranks) rank = -HUGE_VAL;
  for (const std::int32_t place : places) {
    double value = row[place];
    for (double& rank : ranks) {
      const double smaller = value > rank ? rank : value;
      rank = value > rank ? value : rank;
      value = smaller;
    }
  }
  std::copy(ranks, ranks + taken, ranked);
}

// The mean of the `top` largest of some places of a row, added from the largest on; `ranked`: room for these.
double worth_of(const double* row, const std::vector<std::int32_t>& places, size_t top, std::vector<double>& ranked) {
  const size_t taken = std::min(top, places.size());
  switch (taken) {
    case 1: largest<1>(row, places, ranked.data()); break;
    case 2: largest<2>(row, places, ranked.data()); break;
    case 3: largest<3>(row, places, ranked.data()); break;
    case 4: largest<4>(row, places, ranked.data()); break;
    default:
      for (size_t at = 0; at < places.size(); ++at) ranked[at] = row[places[at]];
      std::partial_sort(ranked.begin(), ranked.begin() + static_cast<std::ptrdiff_t>(taken),
                        ranked.begin() + static_cast<std::ptrdiff_t>(places.size()), std::greater<>());
  }
  double sum = ranked[0];
  for (size_t at = 1; at < taken; ++at) sum += ranked[at];
  return sum / static_cast<double>(taken);
}

// arm_votes(scores, alive, arms, top, worth, best, changed) -> weights; moves `worth` and `best` of the changed arms
PyObject* arm_votes(PyObject*, Arguments args, Py_ssize_t n_args) {
  return guarded(n_args, 7, [&] {
    const Buffer<const double> scores(args[0], PyBUF_C_CONTIGUOUS);
    const Buffer<const std::uint8_t> alive(args[1], PyBUF_SIMPLE);
    const Buffer<const std::int64_t> arms(args[2], PyBUF_C_CONTIGUOUS);
    const long top = PyLong_AsLong(args[3]);
    if (top == -1 && PyErr_Occurred()) throw Raised{};
    const Buffer<double> worth(args[4], PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS);
    const Buffer<std::int32_t> best(args[5], PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS);
    const Buffer<const std::uint8_t> changed(args[6], PyBUF_SIMPLE);
    const Py_ssize_t n = alive.size(), n_arms = changed.size();
    refuse(n == 0 || n_arms == 0 || arms.size() != n || top < 1, "candidates, their arms and a top of 1 or more wanted");
    const Py_ssize_t n_draws = scores.size() / n;
    refuse(scores.size() != n * n_draws || worth.size() != n_draws * n_arms || best.size() != n_draws * n_arms,
           "scores of shape (draws, candidates), worth and best of shape (draws, arms) wanted");
    std::vector<std::vector<std::int32_t>> members(static_cast<size_t>(n_arms));
    for (std::int32_t place = 0; place < n; ++place) {
      const std::int64_t arm = arms.data()[place];
      refuse(arm < 0 || arm >= n_arms, "an arm is out of range");
      if (alive.data()[place]) members[static_cast<size_t>(arm)].push_back(place);
    }
    std::vector<double> ranked(static_cast<size_t>(n)), heads(static_cast<size_t>(n), 0.0), votes_of(static_cast<size_t>(n_arms), 0.0);
    for (Py_ssize_t arm = 0; arm < n_arms; ++arm) {
      if (!changed.data()[arm]) continue;
      const auto& mine = members[static_cast<size_t>(arm)];
      for (Py_ssize_t draw = 0; draw < n_draws; ++draw) {
        const double* row = scores.data() + draw * n;
        double& value = worth.data()[draw * n_arms + arm];
        std::int32_t& first = best.data()[draw * n_arms + arm];
        if (mine.empty()) {
          value = -HUGE_VAL;
          first = -1;
          continue;
        }
        value = worth_of(row, mine, static_cast<size_t>(top), ranked);
        first = mine[0];
        for (const std::int32_t place : mine)
          if (row[place] == ranked[0]) {
            first = place;
            break;
          }
      }
    }
    for (Py_ssize_t draw = 0; draw < n_draws; ++draw) {
      const double* row = worth.data() + draw * n_arms;
      ++votes_of[static_cast<size_t>(std::max_element(row, row + n_arms) - row)];
      for (Py_ssize_t arm = 0; arm < n_arms; ++arm)
        if (const std::int32_t first = best.data()[draw * n_arms + arm]; first >= 0) {
          refuse(first >= n, "a best candidate is none");
          ++heads[static_cast<size_t>(first)];
        }
    }
    for (Py_ssize_t place = 0; place < n; ++place)
      heads[static_cast<size_t>(place)] = votes_of[static_cast<size_t>(arms.data()[place])] *
                                          (heads[static_cast<size_t>(place)] / static_cast<double>(n_draws));
    return list_of(heads);
  });
}

PyCFunction fast(PyObject* (*function)(PyObject*, Arguments, Py_ssize_t)) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef functions[] = {
    {"votes", fast(&votes), METH_FASTCALL, nullptr},
    {"arm_votes", fast(&arm_votes), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "bandits.native.core", nullptr, -1, functions,
                          nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit_core() { return PyModule_Create(&definition); }
