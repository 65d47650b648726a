// Commands to Redis as the bytes that go over the wire, and rows in Feast's format (features/wire.py, features/online.py).
#pragma once

#include <unordered_map>

#include "proto.hpp"

namespace lr {

class Command {
 public:
  void add(std::string_view argument) {
    body_ += '$';
    body_ += std::to_string(argument.size());
    body_ += "\r\n";
    body_ += argument;
    body_ += "\r\n";
    ++n_;
  }

  void add(PyObject* argument) {
    if (PyBytes_Check(argument))
      add(bytes_of(argument));
    else if (PyUnicode_Check(argument))
      add(text(argument));
    else
      add(std::string_view(std::to_string(integer(argument))));
  }

  void add(i64 number) { add(std::string_view(std::to_string(number))); }

  // Words so far.
  size_t size() const { return n_; }

  PyObject* packed() const {
    std::string head = "*" + std::to_string(n_) + "\r\n";
    PyObject* made = checked(PyBytes_FromStringAndSize(nullptr, head.size() + body_.size()));
    std::memcpy(PyBytes_AS_STRING(made), head.data(), head.size());
    std::memcpy(PyBytes_AS_STRING(made) + head.size(), body_.data(), body_.size());
    return made;
  }

 private:
  std::string body_;
  size_t n_ = 0;
};

// command(sha, keys, prefix, args, pages) -> EVALSHA of the fence: keys and the keys of the pages, args, then per key how
// many fields are set, these, how many go, these.
inline PyObject* fence_command(PyObject*, Arguments args, Py_ssize_t n) {
  return guarded([&] {
    expect(n, 5, 5);
    PyObject *keys = args[1], *own = args[3], *pages = args[4];
    Command command;
    command.add(std::string_view("EVALSHA"));
    command.add(args[0]);
    command.add(static_cast<i64>(PyList_Size(keys) + PyDict_Size(pages)));
    for (Py_ssize_t at = 0; at < PyList_Size(keys); ++at) command.add(PyList_GET_ITEM(keys, at));
    PyObject *key, *fields, *name, *page;
    Py_ssize_t at = 0;
    std::string whole;
    while (PyDict_Next(pages, &at, &key, &fields)) {
      whole = bytes_of(args[2]);
      whole += text(key);
      command.add(std::string_view(whole));
    }
    for (Py_ssize_t each = 0; each < PyList_Size(own); ++each) command.add(PyList_GET_ITEM(own, each));
    at = 0;
    while (PyDict_Next(pages, &at, &key, &fields)) {
      if (!PyDict_Check(fields)) raise(PyExc_TypeError, "pages of a key are a dict");
      i64 n_gone = 0;
      Py_ssize_t field = 0;
      while (PyDict_Next(fields, &field, &name, &page)) n_gone += bytes_of(page).empty();
      command.add(static_cast<i64>(PyDict_Size(fields)) - n_gone);
      field = 0;
      while (PyDict_Next(fields, &field, &name, &page)) {
        if (bytes_of(page).empty()) continue;
        command.add(name);
        command.add(page);
      }
      command.add(n_gone);
      field = 0;
      while (PyDict_Next(fields, &field, &name, &page))
        if (bytes_of(page).empty()) command.add(name);
    }
    return command.packed();
  });
}

// page_commands(prefix: bytes, pages) -> [HSET or HDEL]: the pages of each key, whose name begins with the prefix.
inline PyObject* page_commands(PyObject*, Arguments args, Py_ssize_t n) {
  return guarded([&] {
    expect(n, 2, 2);
    if (!PyDict_Check(args[1])) raise(PyExc_TypeError, "pages are a dict");
    Ref commands(checked(PyList_New(0)));
    PyObject *key, *fields, *name, *page;
    Py_ssize_t at = 0;
    while (PyDict_Next(args[1], &at, &key, &fields)) {
      if (!PyDict_Check(fields)) raise(PyExc_TypeError, "pages of a key are a dict");
      std::string whole(bytes_of(args[0]));
      whole += text(key);
      Command set, gone;
      for (auto [command, verb] : {std::pair{&set, "HSET"}, std::pair{&gone, "HDEL"}}) {
        command->add(std::string_view(verb));
        command->add(std::string_view(whole));
      }
      Py_ssize_t field = 0;
      while (PyDict_Next(fields, &field, &name, &page)) {
        const bool empty = bytes_of(page).empty();
        (empty ? gone : set).add(name);
        if (!empty) set.add(page);
      }
      for (const Command* command : {&set, &gone})
        if (command->size() > 2) append(commands.get(), Ref(command->packed()));
    }
    return commands.release();
  });
}

inline u32 murmur3(std::string_view data) {
  auto mix = [](u32 value, u32 block) {
    block *= 0xCC9E2D51;
    block = block << 15 | block >> 17;
    return value ^ block * 0x1B873593;
  };
  u32 value = 0;
  const size_t whole = data.size() & ~size_t{3};
  for (size_t at = 0; at < whole; at += 4) {
    value = mix(value, load<u32>(&data[at]));
    value = (value << 13 | value >> 19) * 5 + 0xE6546B64;
  }
  if (whole < data.size()) {
    u32 block = 0;
    std::memcpy(&block, &data[whole], data.size() - whole);
    value = mix(value, block);
  }
  value ^= static_cast<u32>(data.size());
  value = (value ^ value >> 16) * 0x85EBCA6B;
  value = (value ^ value >> 13) * 0xC2B2AE35;
  return value ^ value >> 16;
}

// Writes of one kind of entity's rows.
class RowPacker {
 public:
  // RowPacker(sha: bytes, key_head: bytes, project: str, ttl: bytes)
  RowPacker(Arguments args, Py_ssize_t n) {
    expect(n, 4, 4);
    sha_ = bytes_of(args[0]);
    head_ = bytes_of(args[1]);
    project_ = text(args[2]);
    ttl_ = bytes_of(args[3]);
  }

  // command(entity_id, fields, event_ts_ms, version) -> EVALSHA that writes these fields, `view:feature` -> bytes
  PyObject* command(Arguments args, Py_ssize_t n) {
    expect(n, 4, 4);
    std::string_view id = text(args[0]), version = bytes_of(args[3]);
    if (!PyDict_Check(args[1])) raise(PyExc_TypeError, "fields are a dict");
    std::string key = head_;
    pack(key, u32{2});
    pack(key, static_cast<u32>(id.size()));
    key += id;
    key += project_;
    std::string stamp;
    i64 ts_ms = integer(args[2]);
    put_int(stamp, 1, floor_div(ts_ms, 1000));
    put_int(stamp, 2, floor_mod(ts_ms, 1000) * 1'000'000);
    Command command;
    for (std::string_view each : {std::string_view("EVALSHA"), std::string_view(sha_), std::string_view("1"),
                                  std::string_view(key), std::string_view(ttl_)})
      command.add(each);
    // Views in the order of their first field.
    PyObject *name, *page;
    std::vector<std::pair<const Name*, std::string_view>> fields;
    std::vector<const std::string*> views;
    for (Py_ssize_t at = 0; PyDict_Next(args[1], &at, &name, &page);) {
      const Name& known = field_of(bytes_of(name));
      fields.emplace_back(&known, bytes_of(page));
      if (std::find_if(views.begin(), views.end(), [&](auto view) { return *view == known.view; }) == views.end())
        views.push_back(&known.view);
    }
    command.add(version);
    command.add(static_cast<i64>(views.size()));
    std::vector<std::string> owners;
    for (const std::string* view : views) command.add(std::string_view(owners.emplace_back("_lr:" + *view)));
    for (const std::string* view : views)
      command.add(4 + 2 * std::count_if(fields.begin(), fields.end(), [&](const auto& each) { return each.first->view == *view; }));
    std::string value;
    for (std::size_t at = 0; at < views.size(); ++at) {
      command.add(std::string_view(owners[at]));
      command.add(version);
      command.add(std::string_view("_ts:" + *views[at]));
      command.add(std::string_view(stamp));
      for (const auto& [field, data] : fields) {
        if (field->view != *views[at]) continue;
        value.clear();
        if (!data.empty()) put_delimited(value, 1, data);
        command.add(std::string_view(field->hashed));
        command.add(std::string_view(value));
      }
    }
    return command.packed();
  }

 private:
  struct Name {
    std::string view, hashed;
  };

  const Name& field_of(std::string_view field) {
    auto found = names_.find(std::string(field));
    if (found != names_.end()) return found->second;
    Name made{std::string(field.substr(0, field.find(':'))), {}};
    pack(made.hashed, murmur3(field));
    return names_.emplace(std::string(field), std::move(made)).first->second;
  }

  std::string sha_, head_, project_, ttl_;
  std::unordered_map<std::string, Name> names_;
};

// item_row(generation, offset, step, item_id, fields, event_ts_ms) -> an encoded ItemRow
inline PyObject* item_row(PyObject*, Arguments args, Py_ssize_t n) {
  return guarded([&] {
    expect(n, 6, 6);
    std::string number, out, entry;
    put_int(number, 1, integer(args[0]));
    put_int(number, 3, integer(args[1]));
    put_int(number, 4, integer(args[2]));
    put_delimited(out, 1, number);
    put_text(out, 2, text(args[3]));
    PyObject *name, *page;
    for (Py_ssize_t at = 0; PyDict_Next(args[4], &at, &name, &page);) {
      entry.clear();
      put_delimited(entry, 1, bytes_of(name));
      put_delimited(entry, 2, bytes_of(page));
      put_delimited(out, 3, entry);
    }
    put_int(out, 4, integer(args[5]));
    return py_bytes(out).release();
  });
}

}  // namespace lr
