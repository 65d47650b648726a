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

// The numeric columns of one event; `expected` null (NaN) where there is none.
inline std::array<double, kColumns> numeric_columns(i64 kind, double value, double expected) {
  constexpr double null = std::numeric_limits<double>::quiet_NaN();
  std::array<double, kColumns> row{};
  row[kOneAt] = 1.0;
  if (int at = indicator(kind); at >= 0) row[at] = 1.0;
  const int sign = polarity(kind, value);
  const double rounded = value != 0.0 ? quantise(value) : 0.0;
  row[kDwellAt] = kind == kDwell ? rounded : null;
  row[kShortDwellAt] = kind == kDwell && sign < 0 ? 1.0 : 0.0;
  row[kRatingAt] = kind == kRating ? rounded : null;
  row[kValueAt] = rounded;
  row[kExpectedAt] = expected == expected ? quantise(expected) : null;
  row[kPositiveAt] = sign > 0 ? 1.0 : 0.0;
  row[kNegativeAt] = sign < 0 ? 1.0 : 0.0;
  return row;
}

// event_row(kind, value, expected or None) -> the numeric columns.
inline PyObject* event_row(PyObject*, PyObject* const* args, Py_ssize_t n) {
  return guarded([&]() -> PyObject* {
    expect(n, 3, 3);
    const double expected = args[2] == Py_None ? std::numeric_limits<double>::quiet_NaN() : number(args[2]);
    const auto row = numeric_columns(integer(args[0]), number(args[1]), expected);
    Ref made(checked(PyTuple_New(kColumns)));
    for (size_t at = 0; at < kColumns; ++at)
      PyTuple_SET_ITEM(made.get(), at, Ref(checked(PyFloat_FromDouble(row[at]))).release());
    return made.release();
  });
}

}  // namespace lr
