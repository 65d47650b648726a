// What events mean for a user, as Python's modules hold it: outcomes, weights of signals, settings.
#pragma once

#include <memory>
#include <optional>

#include "category_tiles.hpp"
#include "columns.hpp"
#include "exposures.hpp"
#include "ring_tiles.hpp"

namespace lr {

constexpr i64 kKinds = 64;

// Rules that Python's modules hold; filled when the module is made.
struct Rules {
  int outcome_bits[kKinds];  // of types that do not depend on a value
  bool choice[kKinds];
  std::vector<double> expected;  // clicks, by position from 1
  u8 clicked, consumed, dismissed;
  i64 usual_ids, id_bytes, most_bytes, least_bytes;  // room for exposures
};
inline Rules rules{};

inline void import_rules() {
  auto found = [](const char* module, const char* name) {
    Ref loaded(checked(PyImport_ImportModule(module)));
    return attribute(loaded.get(), name);
  };
  Ref bits = found("features.state.exposure", "outcome_bits"), choices = found("features.state.trend", "CHOICES");
  for (i64 kind = 0; kind < kKinds; ++kind) {
    Ref number_ = py(kind), value(checked(PyFloat_FromDouble(0.0)));
    PyObject* args[] = {number_.get(), value.get()};
    rules.outcome_bits[kind] =
        static_cast<int>(integer(Ref(checked(PyObject_Vectorcall(bits.get(), args, 2, nullptr))).get()));
    const int contained = PySequence_Contains(choices.get(), number_.get());
    if (contained < 0) throw Raised{};
    rules.choice[kind] = contained;
  }
  Ref clicks = found("features.state.params", "EXPECTED_CLICKS");
  for (Py_ssize_t at = 0; at < PyTuple_GET_SIZE(clicks.get()); ++at)
    rules.expected.push_back(number(PyTuple_GET_ITEM(clicks.get(), at)));
  rules.clicked = static_cast<u8>(integer(found("features.state.seen", "CLICKED").get()));
  rules.consumed = static_cast<u8>(integer(found("features.state.seen", "CONSUMED").get()));
  rules.dismissed = static_cast<u8>(integer(found("features.state.seen", "DISMISSED").get()));
  auto bound = [&](const char* name) { return integer(found("features.state.exposures", name).get()); };
  rules.usual_ids = bound("USUAL_IDS");
  rules.id_bytes = bound("ID_BYTES");
  rules.most_bytes = bound("MAX_BYTES");
  rules.least_bytes = bound("LEAST_BYTES");
}

inline int outcome_bits(i64 kind, double value) {
  if (kind == kDwell) return polarity(kind, value) > 0 ? kDwellBit | kInteracted : kInteracted;
  if (kind == kRating) return polarity(kind, value) > 0 ? kLikeBit | kInteracted : kInteracted;
  return 0 <= kind && kind < kKinds ? rules.outcome_bits[kind] : 0;
}

inline double expected_clicks(i64 position) {
  return rules.expected[static_cast<size_t>(std::clamp<i64>(position, 1, static_cast<i64>(rules.expected.size()))) - 1];
}

// Weights of features.state.params.SignalWeights.
class Signals {
 public:
  explicit Signals(PyObject* weights) {
    constexpr std::pair<i64, const char*> kFixed[] = {{kClick, "click"}, {kLike, "like"}, {kSave, "save"},
        {kPurchase, "purchase"}, {kSkip, "skip"}, {kDismiss, "dismiss"}, {kThumbsDown, "thumbs_down"},
        {kNotInterested, "not_interested"}, {kAbandon, "abandon"}};
    for (const auto& [kind, name] : kFixed) fixed_[kind] = weight(weights, name);
    dwell_ = weight(weights, "dwell");
    short_dwell_ = weight(weights, "short_dwell");
    rating_ = weight(weights, "rating");
    survey_ = weight(weights, "survey");
  }

  double of(i64 kind, double value) const {
    if (kind == kDwell) return value >= bounds.long_dwell_s ? dwell_ : value < bounds.short_dwell_s ? short_dwell_ : 0.0;
    if (kind == kRating) return rating_ * part((value - bounds.middle_rating) / bounds.middle_rating);
    if (kind == kSurvey) return survey_ * part((value - 0.5) * 2.0);
    return 0 <= kind && kind < kKinds ? fixed_[kind] : 0.0;
  }

 private:
  static double weight(PyObject* weights, const char* name) { return number(attribute(weights, name).get()); }
  static double part(double value) { return std::max(-1.0, std::min(1.0, value)); }

  double fixed_[kKinds] = {};
  double dwell_, short_dwell_, rating_, survey_;
};

// What of features.state.params.StateParams the steps ask for.
struct Params {
  Ref source;
  Signals signals;
  i64 window_ms, grain_ms;
  double rewards[Exposure::kRewards];

  explicit Params(PyObject* params)
      : source(Ref::borrowed(params)), signals(attribute(params, "signals").get()),
        window_ms(int_attribute(params, "attribution_window_ms")), grain_ms(int_attribute(params, "composition_grain_ms")) {
    Ref weights = attribute(params, "rewards"), in_order = attribute(weights.get(), "in_order");
    for (size_t at = 0; at < Exposure::kRewards; ++at) rewards[at] = number(PyTuple_GET_ITEM(in_order.get(), at));
  }

  // Those of an object; all users of a partition share it.
  static std::shared_ptr<const Params> of(PyObject* params) {
    static auto& last = *new std::shared_ptr<const Params>;  // outlives Python
    if (!last || last->source.get() != params) last = std::make_shared<const Params>(params);
    return last;
  }
};

// Count a row in every tile of a list, which Python may change between two calls.
inline void count_all(PyObject* tiles, i64 ts_ms, Row row, double sign, std::optional<double> group) {
  for (Py_ssize_t at = 0; at < PyList_GET_SIZE(tiles); ++at) {
    PyObject* each = PyList_GET_ITEM(tiles, at);
    if (Py_TYPE(each) == type_of<RingTiles>)
      reinterpret_cast<Box<RingTiles>*>(each)->value->add_row(ts_ms, row, sign);
    else if (group)
      unbox<CategoryTiles>(each).add_row(ts_ms, row, sign, *group);
  }
}

}  // namespace lr
