// How far one user is: the same bytes as features/state/lead.py, which says what they mean.
#pragma once

#include "base.hpp"

namespace lr {

class Lead {
 public:
  static constexpr i64 kUnknown = -2, kNoLeaving = -1;

  Lead(Arguments args, Py_ssize_t n) {
    expect(n, 1, 1);
    Fields fields(args[0]);
    std::string_view stored = fields.body(name(), 16);
    if (stored.empty()) return;
    written_composition_ms_ = composition_ms = load<i64>(stored.data());
    written_newest_ms_ = newest_event_ts_ms = load<i64>(stored.data() + 8);
  }

  void gather(PyObject* changed) {
    if (composition_ms == written_composition_ms_ && newest_event_ts_ms == written_newest_ms_) return;
    std::string out;
    pack(out, composition_ms);
    pack(out, newest_event_ts_ms);
    put(changed, name(), page_bytes(out));
    written_composition_ms_ = composition_ms;
    written_newest_ms_ = newest_event_ts_ms;
  }

  i64 composition_ms = 0, newest_event_ts_ms = 0, leaving_ms = kUnknown;

 private:
  static PyObject* name() {
    static PyObject* made = checked(PyBytes_FromString("_u"));
    return made;
  }

  i64 written_composition_ms_ = 0, written_newest_ms_ = 0;
};

}  // namespace lr
