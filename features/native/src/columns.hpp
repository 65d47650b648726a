// The row of one event: features/columns.py says what its columns mean.
#pragma once

#include <array>

#include "base.hpp"

namespace lr {

enum Kind { kImpression = 1, kClick, kDwell, kLike, kSave, kRating, kPurchase, kSearch, kSkip, kDismiss, kThumbsDown,
            kNotInterested, kSessionEnd, kSurvey, kExposure = 50, kAbandon = 53 };

// Bounds of liverank/contract.py.
struct Bounds {
  double long_dwell_s, short_dwell_s, middle_rating;
};
inline Bounds bounds{};

inline int polarity(i64 kind, double value) {
  switch (kind) {
    case kClick: case kLike: case kSave: case kPurchase:
      return 1;
    case kSkip: case kDismiss: case kThumbsDown: case kNotInterested: case kAbandon:
      return -1;
    case kDwell:
      return value >= bounds.long_dwell_s ? 1 : value < bounds.short_dwell_s ? -1 : 0;
    case kRating:
      return (value > bounds.middle_rating) - (value < bounds.middle_rating);
    case kSurvey:
      return (value > 0.5) - (value < 0.5);
    default:
      return 0;
  }
}

constexpr size_t kColumns = 18;
enum Column { kOneAt, kImpressionAt, kClickAt, kDwellAt, kLikeAt, kSaveAt, kRatingAt, kPurchaseAt, kSkipAt, kDismissAt,
              kThumbsDownAt, kNotInterestedAt, kPositiveAt, kNegativeAt, kShortDwellAt, kAbandonmentAt, kValueAt,
              kExpectedAt };

inline int indicator(i64 kind) {
  switch (kind) {
    case kImpression: return kImpressionAt;
    case kClick: return kClickAt;
    case kLike: return kLikeAt;
    case kSave: return kSaveAt;
    case kPurchase: return kPurchaseAt;
    case kSkip: return kSkipAt;
    case kDismiss: return kDismissAt;
    case kThumbsDown: return kThumbsDownAt;
    case kNotInterested: return kNotInterestedAt;
    case kAbandon: return kAbandonmentAt;
    default: return -1;
  }
}

// Rounded half to even; the sum turns -0.0 into 0.0, as Python's round does.
inline double quantise(double value) { return std::nearbyint(value * 1048576.0) / 1048576.0 + 0.0; }

// event_row(kind, value, expected or None) -> the numeric columns.
inline PyObject* event_row(PyObject*, PyObject* const* args, Py_ssize_t n) {
  return guarded([&]() -> PyObject* {
    static PyObject* zero = PyFloat_FromDouble(0.0);
    static PyObject* one = PyFloat_FromDouble(1.0);
    static PyObject* null = PyFloat_FromDouble(std::numeric_limits<double>::quiet_NaN());
    expect(n, 3, 3);
    i64 kind = integer(args[0]);
    double value = number(args[1]);
    std::array<PyObject*, kColumns> row;
    row.fill(zero);
    row[kOneAt] = one;
    if (int at = indicator(kind); at >= 0) row[at] = one;
    row[kDwellAt] = row[kRatingAt] = row[kExpectedAt] = null;
    int sign = polarity(kind, value);
    Ref rounded(checked(PyFloat_FromDouble(value != 0.0 ? quantise(value) : 0.0)));
    row[kValueAt] = rounded.get();
    if (kind == kDwell) {
      row[kDwellAt] = rounded.get();
      if (sign < 0) row[kShortDwellAt] = one;
    } else if (kind == kRating) {
      row[kRatingAt] = rounded.get();
    }
    Ref expected;
    if (args[2] != Py_None) {
      expected = Ref(checked(PyFloat_FromDouble(quantise(number(args[2])))));
      row[kExpectedAt] = expected.get();
    }
    if (sign > 0) row[kPositiveAt] = one;
    if (sign < 0) row[kNegativeAt] = one;
    Ref made(checked(PyTuple_New(kColumns)));
    for (size_t at = 0; at < kColumns; ++at) PyTuple_SET_ITEM(made.get(), at, Py_NewRef(row[at]));
    return made.release();
  });
}

}  // namespace lr
