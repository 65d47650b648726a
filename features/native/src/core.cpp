// The module `features.native.core`: the parts of users' and items' state in machine code.
//
// Every class has a twin in Python that says what it means and serves where there is no compiler; both write the same
// bytes (tests/contract/test_native_state.py).
#include "category_tiles.hpp"
#include "columns.hpp"
#include "contract.hpp"
#include "dedup.hpp"
#include "effects.hpp"
#include "exposures.hpp"
#include "guarded.hpp"
#include "history.hpp"
#include "item_batch.hpp"
#include "items.hpp"
#include "lane.hpp"
#include "lead.hpp"
#include "outbox.hpp"
#include "pairs.hpp"
#include "resp.hpp"
#include "ring_tiles.hpp"
#include "seen.hpp"
#include "session.hpp"
#include "sink.hpp"
#include "transition.hpp"

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace lr {

template <class T>
Py_ssize_t length(PyObject* self) {
  return reinterpret_cast<Box<T>*>(self)->value->size();
}

PyObject* item_of(const char* module, const char* name) {
  Ref found(checked(PyImport_ImportModule(module)));
  return attribute(found.get(), name).release();
}

void import_all() {
  imported.body = item_of("features.state.pages", "body");
  imported.tile_page = item_of("features.tiles", "check_page");
  imported.packed_page = item_of("features.tiles", "check_packed");
  imported.shown = item_of("features.state.session", "Shown");
  imported.entry = item_of("features.state.history", "Entry");
  imported.good = item_of("features.state.pairs", "Good");
  imported.pairing = item_of("features.state.pairs", "Pairing");
  imported.row_error = item_of("features.errors", "RowFormatError");
  imported.format_error = item_of("features.errors", "StateFormatError");
  Ref verdict(item_of("features.state.dedup", "Verdict"));
  const char* verdicts[] = {"NEW", "REPEAT", "BEYOND"};
  for (int at = 0; at < 3; ++at) imported.verdicts[at] = attribute(verdict.get(), verdicts[at]).release();
  event_type = item_of("liverank.v1.event_pb2", "Event");
  head_bits_of = item_of("features.state.exposure", "HEAD_BITS");
  matrix = item_of("features.state.exposure", "matrix");
  label_moved = item_of("features.state.exposures", "LabelMoved");
  seen_moved = item_of("features.state.exposures", "SeenMoved");
  row_due = item_of("features.state.exposures", "RowDue");
  counted = item_of("features.state.exposures", "Counted");
  auto bound = [](const char* name) {
    Ref value(item_of("liverank.contract", name));
    return number(value.get());
  };
  Ref halves(item_of("features.state.trend", "HALF_LIVES_MS"));
  for (Py_ssize_t at = 0; at < PyTuple_GET_SIZE(halves.get()); ++at)
    half_lives_ms.push_back(integer(PyTuple_GET_ITEM(halves.get(), at)));
  auto constant = [](const char* module, const char* name) {
    Ref value(item_of(module, name));
    return integer(value.get());
  };
  trend_span = constant("features.state.trend", "SPAN");
  trend_cells = static_cast<size_t>(constant("features.state.trend", "CELLS"));
  surfaces_half_life_ms = static_cast<double>(constant("features.state.surfaces", "HALF_LIFE_MS"));
  surfaces_landmark_ms = constant("features.state.surfaces", "LANDMARK_MS");
  surfaces_most = static_cast<size_t>(constant("features.state.surfaces", "MOST"));
  neighbours_half_life_ms = static_cast<double>(constant("features.state.neighbours", "HALF_LIFE_MS"));
  neighbours_landmark_ms = constant("features.state.neighbours", "LANDMARK_MS");
  neighbours_most = static_cast<size_t>(constant("features.state.neighbours", "MOST"));
  neighbours_slack = static_cast<size_t>(constant("features.state.neighbours", "SLACK"));
  import_rules();
  auto limit = [&](const char* name) { return constant("liverank.contract", name); };
  limits = {limit("MAX_BYTES"), limit("MAX_FUTURE_MS"), limit("MIN_TS_MS"), limit("MAX_SLOTS"), limit("MAX_PHI"),
            limit("MAX_VALUE")};
  bounds = {bound("LONG_DWELL_S"), bound("SHORT_DWELL_S"), bound("MID_RATING")};
}

void add_types(PyObject* module) {
  static PyMethodDef none[] = {{nullptr, nullptr, 0, nullptr}};
  add_type<Plan>(module, "Plan", none);
  static PyMethodDef ring[] = {method<RingTiles, &RingTiles::add>("add"), dirty_method<RingTiles>(),
                               method<RingTiles, &RingTiles::pages>("pages"), {}};
  static PyGetSetDef ring_view[] = {property<RingTiles, &RingTiles::of_view>("view"), {}};
  add_type<RingTiles>(module, "RingTiles", ring, ring_view);
  static PyMethodDef category[] = {method<CategoryTiles, &CategoryTiles::add>("add"),
                                   dirty_method<CategoryTiles>(),
                                   method<CategoryTiles, &CategoryTiles::pages>("pages"), {}};
  static PyGetSetDef category_view[] = {property<CategoryTiles, &CategoryTiles::of_view>("view"), {}};
  add_type<CategoryTiles>(module, "CategoryTiles", category, category_view);
  static PyMethodDef dedup[] = {method<Dedup, &Dedup::judge>("judge"), method<Dedup, &Dedup::add>("add"),
                                method<Dedup, &Dedup::is_bot>("is_bot"), dirty_method<Dedup>(), {}};
  static PyGetSetDef bound[] = {property<Dedup, &Dedup::bound_ms>("bound_ms"), {}};
  add_type<Dedup>(module, "Dedup", dedup, bound, &length<Dedup>);
  static PyMethodDef lead[] = {dirty_method<Lead>(), {}};
  static PyGetSetDef lead_gets[] = {variable<Lead, &Lead::composition_ms>("composition_ms"),
                                    variable<Lead, &Lead::newest_event_ts_ms>("newest_event_ts_ms"),
                                    variable<Lead, &Lead::leaving_ms>("leaving_ms"), {}};
  add_type<Lead>(module, "Lead", lead, lead_gets);
  static PyMethodDef history[] = {method<History, &History::add>("add"), method<History, &History::intent>("intent"),
                                  method<History, &History::next_leaving_ms>("next_leaving_ms"),
                                  dirty_method<History>(), {}};
  add_type<History>(module, "History", history, nullptr, &length<History>);
  static PyMethodDef seen[] = {method<Seen, &Seen::mark>("mark"), method<Seen, &Seen::unmark>("unmark"),
                               method<Seen, &Seen::act>("act"), dirty_method<Seen>(), {}};
  add_type<Seen>(module, "Seen", seen);
  static PyMethodDef sessions[] = {method<Sessions, &Sessions::add>("add"), method<Sessions, &Sessions::due_ms>("due_ms"),
                                   method<Sessions, &Sessions::on_due>("on_due"),
                                   method<Sessions, &Sessions::derive>("derive"),
                                   method<Sessions, &Sessions::next_leaving_ms>("next_leaving_ms"),
                                   method<Sessions, &Sessions::set_intent>("set_intent"),
                                   dirty_method<Sessions>(), {}};
  static PyGetSetDef start[] = {property<Sessions, &Sessions::start_ms>("start_ms"), {}};
  add_type<Sessions>(module, "Sessions", sessions, start);
  static PyMethodDef pairs[] = {method<Pairs, &Pairs::add>("add"), method<Pairs, &Pairs::forget>("forget"),
                                dirty_method<Pairs>(), {}};
  add_type<Pairs>(module, "Pairs", pairs, nullptr, &length<Pairs>);
  static PyMethodDef packer[] = {method<RowPacker, &RowPacker::command>("command"),
                                 method<RowPacker, &RowPacker::plain>("plain"), {}};
  add_type<RowPacker>(module, "RowPacker", packer);
  static PyMethodDef trend[] = {method<Trend, &Trend::add>("add"), dirty_method<Trend>(), {}};
  add_type<Trend>(module, "Trend", trend);
  static PyMethodDef surfaces[] = {method<SurfaceCounts, &SurfaceCounts::add>("add"), dirty_method<SurfaceCounts>(), {}};
  add_type<SurfaceCounts>(module, "SurfaceCounts", surfaces);
  static PyMethodDef neighbours[] = {method<Neighbours, &Neighbours::add>("add"),
                                     dirty_method<Neighbours>(), {}};
  add_type<Neighbours>(module, "Neighbours", neighbours, nullptr, &length<Neighbours>);
  static PyMethodDef exposure[] = {method<Exposure, &Exposure::item_of>("item_of"),
                                   method<Exposure, &Exposure::features>("features"),
                                   method<Exposure, &Exposure::expectations>("expected"),
                                   method<Exposure, &Exposure::example>("example"), {}};
  static PyGetSetDef exposure_gets[] = {
      property<Exposure, &Exposure::event>("event"), property<Exposure, &Exposure::py_append_ts_ms>("append_ts_ms"),
      property<Exposure, &Exposure::py_shown_ms>("shown_ms"), property<Exposure, &Exposure::py_request_id>("request_id"),
      property<Exposure, &Exposure::py_surface>("surface"), property<Exposure, &Exposure::py_user_id>("user_id"), property<Exposure, &Exposure::py_session_id>("session_id"),
      property<Exposure, &Exposure::py_head_bits>("head_bits"), {}};
  add_type<Exposure>(module, "Exposure", exposure, exposure_gets);
  static PyMethodDef exposures[] = {
      method<Exposures, &Exposures::get>("get"), method<Exposures, &Exposures::add_exposure>("add_exposure"),
      method<Exposures, &Exposures::add_outcome>("add_outcome"), method<Exposures, &Exposures::due_ms>("due_ms"),
      method<Exposures, &Exposures::on_due>("on_due"), method<Exposures, &Exposures::forget>("forget"),
      method<Exposures, &Exposures::shrink>("shrink"),
      dirty_method<Exposures>(), {}};
  add_type<Exposures>(module, "Exposures", exposures, nullptr, &length<Exposures>);
  static PyMethodDef sink[] = {method<Sink, &Sink::effect>("effect"), method<Sink, &Sink::number>("number"),
                               method<Sink, &Sink::use_items>("use_items"), {}};
  static PyGetSetDef place[] = {variable<Sink, &Sink::offset>("offset"), variable<Sink, &Sink::step>("step"),
                                variable<Sink, &Sink::place>("place"),
                                {"effects", &get<Sink, &Sink::get_effects>, &set_effects, nullptr, nullptr}, {}};
  add_type<Sink>(module, "Sink", sink, place);
  static PyMethodDef user[] = {method<UserTransition, &UserTransition::observe>("observe"),
                               method<UserTransition, &UserTransition::saw>("saw"),
                               method<UserTransition, &UserTransition::due_ms>("due_ms"),
                               method<UserTransition, &UserTransition::on_due>("on_due"), {}};
  add_type<UserTransition>(module, "UserTransition", user);
  static PyMethodDef due[] = {method<DueIndex, &DueIndex::extend>("extend"), method<DueIndex, &DueIndex::put>("put"),
                              method<DueIndex, &DueIndex::any_due>("any_due"),
                              method<DueIndex, &DueIndex::pop_due>("pop_due"),
                              method<DueIndex, &DueIndex::take_changes>("take_changes"), {}};
  static PyGetSetDef due_gets[] = {variable<DueIndex, &DueIndex::horizon_ms>("horizon_ms"),
                                   property<DueIndex, &DueIndex::get_changes>("changes"), {}};
  add_type<DueIndex>(module, "DueIndex", due, due_gets, &length<DueIndex>);
  static PyGetSetDef entry[] = {
      property<CacheEntry, &CacheEntry::state>("state"),
      {"due_ms", &get<CacheEntry, &CacheEntry::get_due_ms>, &set_due_ms, nullptr, nullptr}, {}};
  add_type<CacheEntry>(module, "CacheEntry", none, entry);
  static PyMethodDef lane[] = {method<UserLane, &UserLane::scan>("scan"), method<UserLane, &UserLane::run>("run"), {}};
  add_type<UserLane>(module, "UserLane", lane);
  static PyMethodDef item[] = {method<ItemTransition, &ItemTransition::observe>("observe"), {}};
  add_type<ItemTransition>(module, "ItemTransition", item);
  static PyMethodDef batch[] = {method<EffectBatch, &EffectBatch::apply>("apply"), {}};
  static PyGetSetDef batch_gets[] = {
      property<EffectBatch, &EffectBatch::simple>("simple"), property<EffectBatch, &EffectBatch::keys>("keys"),
      property<EffectBatch, &EffectBatch::generation>("generation"),
      property<EffectBatch, &EffectBatch::source_partition>("source_partition"), {}};
  add_type<EffectBatch>(module, "EffectBatch", batch, batch_gets);
}

// keep_memory(): what is freed stays with the process up to 256 MB, and large pieces come from there too: those of a poll
// were given back and taken anew, zeroed page by page, at each.
PyObject* keep_memory(PyObject*, Arguments, Py_ssize_t n) {
  return guarded([&]() -> PyObject* {
    expect(n, 0, 0);
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TRIM_THRESHOLD, 256 << 20);
#endif
    Py_RETURN_NONE;
  });
}

PyCFunction fast(PyObject* (*function)(PyObject*, Arguments, Py_ssize_t)) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef functions[] = {
    {"collect", fast(&collect), METH_FASTCALL, nullptr},
    {"plain_event", fast(&plain_event), METH_FASTCALL, nullptr},
    {"event_row", fast(&event_row), METH_FASTCALL, nullptr},
    {"item_event", fast(&item_event), METH_FASTCALL, nullptr},
    {"item_pairs", fast(&item_pairs), METH_FASTCALL, nullptr},
    {"numbered_effect", fast(&numbered_effect), METH_FASTCALL, nullptr},
    {"user_change", fast(&user_change), METH_FASTCALL, nullptr},
    {"numbered", fast(&numbered), METH_FASTCALL, nullptr},
    {"call_commands", fast(&call_commands), METH_FASTCALL, nullptr},
    {"fence_command", fast(&fence_command), METH_FASTCALL, nullptr},
    {"page_commands", fast(&page_commands), METH_FASTCALL, nullptr},
    {"keep_memory", fast(&keep_memory), METH_FASTCALL, nullptr},
    {"write_guarded", fast(&write_guarded), METH_FASTCALL, nullptr},
    {"item_row", fast(&item_row), METH_FASTCALL, nullptr},
    {"public_fields", fast(&public_fields), METH_FASTCALL, nullptr},
    {"encode_outbox", fast(&encode_outbox), METH_FASTCALL, nullptr},
    {"read_effects", fast(&read_effects), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "features.native.core", nullptr, -1, functions,
                          nullptr, nullptr, nullptr, nullptr};

}  // namespace lr

PyMODINIT_FUNC PyInit_core() {
  return lr::guarded([]() -> PyObject* {
    lr::Ref module(lr::checked(PyModule_Create(&lr::definition)));
    lr::import_all();
    lr::make_effect_types(module.get());
    lr::add_types(module.get());
    return module.release();
  });
}
