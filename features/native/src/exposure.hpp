// One slate that was shown: the same bytes as features/state/exposure.py, which says what they mean.
#pragma once

#include "proto.hpp"

namespace lr {

constexpr int kClickBit = 1, kDwellBit = 2, kLikeBit = 4, kPurchaseBit = 8, kDismissBit = 16;
constexpr int kLabels = 31, kFast = kClickBit | kDismissBit, kInteracted = 32, kImpressionBit = 64;
constexpr int kInferred = 1, kCorrected = 2, kSeenMark = 4;

inline PyObject* event_type = nullptr;    // liverank.v1.event_pb2.Event
inline PyObject* head_bits_of = nullptr;  // features.state.exposure.HEAD_BITS
inline PyObject* matrix = nullptr;        // features.state.exposure.matrix

// A slate that was shown, and what came of each slot.
class Exposure {
 public:
  static constexpr size_t kRewards = 5;

  struct Slot {
    std::string_view item, phi, p_shown, variant;
    i64 catalogue_version = 0;
    double propensity = 0.0, variant_propensity = 0.0;
    bool pinned = false;
    size_t hash = 0;
  };

  // Exposure(number, event: bytes, append_ts_ms, counts)
  Exposure(Arguments args, Py_ssize_t n)
      : Exposure((expect(n, 4, 4), static_cast<size_t>(integer(args[0]))), bytes_of(args[1]), integer(args[2]),
                 PyObject_IsTrue(args[3]) == 1) {}

  Exposure(size_t place, std::string_view raw, i64 append_ts_ms, bool counts)
      : number(place), append_ts_ms(append_ts_ms), counts(counts), raw_(raw) {
    std::string_view slate;
    for (Reader event(raw_); event.next();) {
      if (event.field == 1) request_id = event.bytes;
      if (event.field == 3) user_id_ = event.bytes;
      if (event.field == 4) session_id_ = event.bytes;
      if (event.field == 6) shown_ms = static_cast<i64>(event.number);
      if (event.field == 10) surface_ = event.bytes;
      if (event.field == 20) slate = event.bytes;
    }
    for (Reader field(slate); field.next();) {
      switch (field.field) {
        case 1: policy_ = field.bytes; break;
        case 2: arm_ = field.bytes; break;
        case 3: base_model_ = field.bytes; break;
        case 4: schema_ = field.bytes; break;
        case 5: drawn_ = field.number != 0; break;
        case 6: heads_.push_back(field.bytes); break;
        case 7: slots.push_back(slot(field.bytes)); break;
        case 8: more_statistics_ = true; break;
        default: break;
      }
    }
    for (std::string_view head : heads_) {
      Ref name = py_text(head);
      PyObject* found = PyDict_GetItemWithError(head_bits_of, name.get());
      if (found == nullptr && PyErr_Occurred()) throw Raised{};
      head_bits.push_back(found == nullptr ? 0 : static_cast<int>(integer(found)));
    }
    for (const Slot& each : slots) items_ |= u64{1} << (each.hash & 63);
    bits.assign(slots.size(), 0);
    marks.assign(slots.size(), 0);
  }
  Exposure(const Exposure&) = delete;

  std::pair<i64, std::string_view> age() const { return {shown_ms, request_id}; }
  size_t size_bytes() const { return raw_.size() + 2 * slots.size() + 16; }

  // Whether its outcomes can move the statistics.
  bool countable() const { return drawn_ && !heads_.empty() && !slots.empty() && !slots[0].phi.empty(); }

  // Whether it moves statistics beside the shared sums.
  bool more_statistics() const { return more_statistics_; }
  std::string_view base_model() const { return base_model_; }
  std::string_view schema() const { return schema_; }

  // First slot that shows the item; -1 = none.
  int find(std::string_view item, size_t hash) const {
    if ((items_ >> (hash & 63) & 1) == 0) return -1;
    for (size_t at = 0; at < slots.size(); ++at)
      if (slots[at].hash == hash && slots[at].item == item) return static_cast<int>(at);
    return -1;
  }

  int slot_of(std::string_view item, size_t hash, i64 position) const {
    if (1 <= position && position <= static_cast<i64>(slots.size()) && slots[position - 1].item == item)
      return static_cast<int>(position - 1);
    return find(item, hash);
  }

  Ref event_page() const {
    std::string out;
    pack(out, append_ts_ms);
    out += raw_;
    return page_bytes(out);
  }

  Ref joined_page() const {
    std::string out(1, static_cast<char>((closed ? 1 : 0) | (counts ? 2 : 0)));
    out.append(bits.begin(), bits.end());
    out.append(marks.begin(), marks.end());
    return page_bytes(out);
  }

  double expected(size_t slot, size_t head) const {
    return static_cast<double>(load<float>(slots[slot].p_shown.data() + 4 * head));
  }

  // -- what Python reads

  PyObject* event() {
    if (!event_) {
      Ref packed = py_bytes(raw_);
      event_ = Ref(checked(PyObject_CallMethod(event_type, "FromString", "O", packed.get())));
    }
    return Py_NewRef(event_.get());
  }
  PyObject* py_append_ts_ms() { return PyLong_FromLongLong(append_ts_ms); }
  PyObject* py_shown_ms() { return PyLong_FromLongLong(shown_ms); }
  PyObject* py_request_id() { return py_text(request_id).release(); }
  std::string_view surface() const { return surface_; }
  PyObject* py_surface() { return py_text(surface_).release(); }
  PyObject* py_user_id() { return py_text(user_id_).release(); }
  PyObject* py_session_id() { return py_text(session_id_).release(); }
  PyObject* py_head_bits() {
    Ref all(checked(PyTuple_New(head_bits.size())));
    for (size_t at = 0; at < head_bits.size(); ++at) PyTuple_SET_ITEM(all.get(), at, py(head_bits[at]).release());
    return all.release();
  }

  PyObject* item_of(Arguments args, Py_ssize_t n) {
    expect(n, 1, 1);
    return py_text(slots.at(static_cast<size_t>(integer(args[0]))).item).release();
  }

  // features() -> ndarray, shape (n_slots, dim)
  PyObject* features(Arguments, Py_ssize_t) {
    if (!phi_) phi_ = joined(&Slot::phi);
    return Py_NewRef(phi_.get());
  }

  // expected() -> ndarray, shape (n_slots, n_heads)
  PyObject* expectations(Arguments, Py_ssize_t) { return joined(&Slot::p_shown).release(); }

  // example(slot, user_id, closed_ts_ms, correction, rewards) -> an Example without its number
  PyObject* example(Arguments args, Py_ssize_t n) {
    expect(n, 5, 5);
    double rewards[kRewards];
    for (size_t at = 0; at < kRewards; ++at) rewards[at] = lr::number(PyTuple_GET_ITEM(args[4], at));
    return py_bytes(example_row(static_cast<size_t>(integer(args[0])), text(args[1]), integer(args[2]),
                                PyObject_IsTrue(args[3]) == 1, rewards))
        .release();
  }

  // `rewards`: weights of the five outcomes.
  std::string example_row(size_t at, std::string_view user_id, i64 closed_ts_ms, bool correction,
                          const double* rewards) const {
    static constexpr std::pair<std::string_view, int> kNames[] = {{"click", kClickBit}, {"dwell", kDwellBit},
        {"like", kLikeBit}, {"purchase", kPurchaseBit}, {"dismiss", kDismissBit}};
    const Slot& slot = slots.at(at);
    std::string out;
    out.reserve(256 + slot.phi.size());
    put_text(out, 2, request_id);
    put_int(out, 3, static_cast<i64>(at) + 1);
    put_text(out, 4, user_id);
    put_text(out, 5, slot.item);
    put_int(out, 6, shown_ms);
    put_int(out, 7, closed_ts_ms);
    put_text(out, 8, surface_);
    put_text(out, 9, policy_);
    put_text(out, 10, arm_);
    put_text(out, 11, base_model_);
    put_text(out, 12, schema_);
    put_double(out, 13, slot.propensity);
    put_int(out, 14, slot.pinned);
    put_int(out, 15, drawn_);
    put_int(out, 16, (marks[at] & kSeenMark) != 0);
    double reward = 0.0;
    std::string entry;
    for (size_t name = 0; name < kRewards; ++name) {
      const double outcome = bits[at] & kNames[name].second ? 1.0 : 0.0;
      entry.clear();
      put_delimited(entry, 1, kNames[name].first);
      tag(entry, 2, kFixed64);
      pack(entry, outcome);
      put_delimited(out, 17, entry);
      reward += rewards[name] * outcome;
    }
    put_double(out, 18, reward);
    put_int(out, 19, correction);
    put_text(out, 20, slot.phi);
    put_text(out, 21, slot.p_shown);
    for (std::string_view head : heads_) put_delimited(out, 22, head);
    put_int(out, 23, slot.catalogue_version);
    put_text(out, 24, slot.variant);
    put_double(out, 25, slot.variant_propensity);
    return out;
  }

  const size_t number;
  const i64 append_ts_ms;
  bool counts;
  bool closed = false;
  i64 shown_ms = 0;
  std::string_view request_id;
  std::vector<Slot> slots;
  std::vector<u8> bits, marks;
  std::vector<int> head_bits;

 private:
  static Slot slot(std::string_view packed) {
    Slot made;
    for (Reader field(packed); field.next();) {
      switch (field.field) {
        case 1: made.item = field.bytes; break;
        case 2: made.catalogue_version = static_cast<i64>(field.number); break;
        case 3: made.propensity = field.as_double(); break;
        case 4: made.pinned = field.number != 0; break;
        case 5: made.p_shown = field.bytes; break;
        case 7: made.phi = field.bytes; break;
        case 12: made.variant = field.bytes; break;
        case 13: made.variant_propensity = field.as_double(); break;
        default: break;
      }
    }
    made.hash = std::hash<std::string_view>{}(made.item);
    return made;
  }

  Ref joined(std::string_view Slot::* part) const {
    std::string all;
    for (const Slot& each : slots) all += each.*part;
    Ref packed = py_bytes(all), rows = py(static_cast<i64>(slots.size()));
    PyObject* args[] = {packed.get(), rows.get()};
    return Ref(checked(PyObject_Vectorcall(matrix, args, 2, nullptr)));
  }

  const std::string raw_;
  std::string_view user_id_, session_id_, surface_, policy_, arm_, base_model_, schema_;
  std::vector<std::string_view> heads_;
  bool drawn_ = false, more_statistics_ = false;
  u64 items_ = 0;  // a bit for each item's hash: most items that are asked for are not here
  Ref event_, phi_;
};

}  // namespace lr
