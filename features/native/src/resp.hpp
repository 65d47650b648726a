// Commands to Redis as the bytes that go over the wire, and rows in Feast's format (features/wire.py, features/online.py).
#pragma once

#include <charconv>
#include <unordered_map>

#include "proto.hpp"

namespace lr {

inline void put_length(std::string& out, char kind, size_t value) {
  char digits[24] = {kind};
  char* end = std::to_chars(digits + 1, digits + sizeof digits - 2, value).ptr;
  *end++ = '\r';
  *end++ = '\n';
  out.append(digits, static_cast<size_t>(end - digits));
}

inline void put_word(std::string& out, std::string_view word) {
  put_length(out, '$', word.size());
  out += word;
  out += "\r\n";
}

inline void put_word(std::string& out, PyObject* word) {
  if (PyBytes_Check(word))
    put_word(out, bytes_of(word));
  else if (PyUnicode_Check(word))
    put_word(out, text(word));
  else
    put_word(out, std::string_view(std::to_string(integer(word))));
}

class Command {
 public:
  void add(std::string_view argument) {
    put_word(body_, argument);
    ++n_;
  }

  void add(PyObject* argument) {
    put_word(body_, argument);
    ++n_;
  }

  void add(i64 number) { add(std::string_view(std::to_string(number))); }

  // Words so far.
  size_t size() const { return n_; }

  void append_to(std::string& out) const {
    put_length(out, '*', n_);
    out += body_;
  }

  void clear() {
    body_.clear();
    n_ = 0;
  }

  PyObject* packed() const {
    std::string head;
    put_length(head, '*', n_);
    PyObject* made = checked(PyBytes_FromStringAndSize(nullptr, head.size() + body_.size()));
    std::memcpy(PyBytes_AS_STRING(made), head.data(), head.size());
    std::memcpy(PyBytes_AS_STRING(made) + head.size(), body_.data(), body_.size());
    return made;
  }

 private:
  std::string body_;
  size_t n_ = 0;
};

// Commands that go over the wire together.
class Commands {
 public:
  // Add a command, unless it has no more words than `empty`, and begin the next.
  void take(Command& command, size_t empty = 0) {
    if (command.size() > empty) {
      command.append_to(out_);
      ++n_;
    }
    command.clear();
  }

  // (bytes, how many)
  PyObject* packed() const {
    Ref data = py_bytes(out_);
    return checked(Py_BuildValue("On", data.get(), static_cast<Py_ssize_t>(n_)));
  }

 private:
  std::string out_;
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

// HSET and HDEL of each key's pages; its name begins with the prefix.
template <class Take>
void each_page_command(std::string_view prefix, PyObject* pages, Take&& take) {
  if (!PyDict_Check(pages)) raise(PyExc_TypeError, "pages are a dict");
  PyObject *key, *fields, *name, *page;
  std::string whole;
  Command set, gone;
  for (Py_ssize_t at = 0; PyDict_Next(pages, &at, &key, &fields);) {
    if (!PyDict_Check(fields)) raise(PyExc_TypeError, "pages of a key are a dict");
    whole = prefix;
    whole += text(key);
    for (auto [command, verb] : {std::pair{&set, "HSET"}, std::pair{&gone, "HDEL"}}) {
      command->clear();
      command->add(std::string_view(verb));
      command->add(std::string_view(whole));
    }
    for (Py_ssize_t field = 0; PyDict_Next(fields, &field, &name, &page);) {
      const bool empty = bytes_of(page).empty();
      (empty ? gone : set).add(name);
      if (!empty) set.add(page);
    }
    for (Command* command : {&set, &gone})
      if (command->size() > 2) take(*command);
  }
}

// page_commands(prefix: bytes, pages) -> [HSET or HDEL]
inline PyObject* page_commands(PyObject*, Arguments args, Py_ssize_t n) {
  return guarded([&] {
    expect(n, 2, 2);
    Ref commands(checked(PyList_New(0)));
    each_page_command(bytes_of(args[0]), args[1],
                      [&](Command& command) { append(commands.get(), Ref(command.packed())); });
    return commands.release();
  });
}

// call_commands(keys, prefix, args, pages) -> (bytes, n): what the fence writes once it holds, as plain commands; the
// arguments are those of the fence.
inline PyObject* call_commands(PyObject*, Arguments args, Py_ssize_t n) {
  return guarded([&] {
    expect(n, 4, 4);
    if (!PyList_Check(args[0]) || !PyList_Check(args[2])) raise(PyExc_TypeError, "keys and arguments are lists");
    auto key = [&](Py_ssize_t at) { return checked(PyList_GetItem(args[0], at)); };
    auto own = [&](Py_ssize_t at) { return checked(PyList_GetItem(args[2], at)); };
    Commands commands;
    Command command;
    auto begin = [&](const char* verb, PyObject* of) {
      command.add(std::string_view(verb));
      command.add(of);
    };
    begin("HSET", key(0));
    command.add(std::string_view("position"));
    command.add(own(2));
    command.add(std::string_view("clock"));
    command.add(own(3));
    if (PyObject_IsTrue(own(4))) {
      command.add(std::string_view("version"));
      command.add(own(4));
    }
    const i64 n_marks = integer(own(7));
    Py_ssize_t at = 8;
    for (i64 each = 0; each < 2 * n_marks; ++each) command.add(own(at++));
    commands.take(command);
    const i64 n_due = integer(own(at++));
    Command gone;
    begin("ZADD", key(1));
    gone.add(std::string_view("ZREM"));
    gone.add(key(1));
    for (i64 each = 0; each < n_due; ++each, at += 2) {
      PyObject* due = own(at + 1);
      if (PyBytes_Check(due) && bytes_of(due).empty()) {
        gone.add(own(at));
      } else {
        command.add(due);
        command.add(own(at));
      }
    }
    commands.take(command, 2);
    commands.take(gone, 2);
    if (bytes_of(own(5)) == "1") {
      begin("DEL", key(2));
      commands.take(command);
    }
    if (!bytes_of(own(6)).empty()) {
      begin("RPUSH", key(2));
      command.add(own(6));
      commands.take(command);
    }
    each_page_command(bytes_of(args[1]), args[3], [&](Command& page) { commands.take(page); });
    return commands.packed();
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
    Command command;
    for (std::string_view each : {std::string_view("EVALSHA"), std::string_view(sha_), std::string_view("1")})
      command.add(each);
    const std::string key = key_of(id);
    command.add(std::string_view(key));
    command.add(std::string_view(ttl_));
    const Views views = views_of(args[1]);
    command.add(version);
    command.add(static_cast<i64>(views.size()));
    for (const auto& [name, fields] : views) command.add(std::string_view("_lr:" + *name));
    for (const auto& [name, fields] : views) command.add(static_cast<i64>(4 + 2 * fields.size()));
    add_fields(command, views, version, integer(args[2]));
    return command.packed();
  }

  // plain(entity_id, fields, event_ts_ms, version) -> (bytes, n): the same as plain commands
  PyObject* plain(Arguments args, Py_ssize_t n) {
    expect(n, 4, 4);
    if (!PyDict_Check(args[1])) raise(PyExc_TypeError, "fields are a dict");
    const std::string key = key_of(text(args[0]));
    Commands commands;
    Command command;
    command.add(std::string_view("HSET"));
    command.add(std::string_view(key));
    add_fields(command, views_of(args[1]), bytes_of(args[3]), integer(args[2]));
    commands.take(command);
    const bool ends = ttl_ != "0";
    command.add(std::string_view(ends ? "EXPIRE" : "PERSIST"));
    command.add(std::string_view(key));
    if (ends) command.add(std::string_view(ttl_));
    commands.take(command);
    return commands.packed();
  }

 private:
  struct Name {
    std::string view, hashed;
  };
  // Views in the order of their first field, each with its fields.
  using Views = std::vector<std::pair<const std::string*, std::vector<std::pair<const Name*, std::string_view>>>>;

  std::string key_of(std::string_view id) const {
    std::string key = head_;
    pack(key, u32{2});
    pack(key, static_cast<u32>(id.size()));
    key += id;
    key += project_;
    return key;
  }

  Views views_of(PyObject* fields) {
    Views views;
    PyObject *name, *page;
    for (Py_ssize_t at = 0; PyDict_Next(fields, &at, &name, &page);) {
      const Name& known = field_of(bytes_of(name));
      auto view = std::find_if(views.begin(), views.end(), [&](const auto& each) { return *each.first == known.view; });
      if (view == views.end()) view = views.insert(views.end(), {&known.view, {}});
      view->second.emplace_back(&known, bytes_of(page));
    }
    return views;
  }

  static void add_fields(Command& command, const Views& views, std::string_view version, i64 ts_ms) {
    std::string stamp, value;
    put_int(stamp, 1, floor_div(ts_ms, 1000));
    put_int(stamp, 2, floor_mod(ts_ms, 1000) * 1'000'000);
    for (const auto& [view, fields] : views) {
      command.add(std::string_view("_lr:" + *view));
      command.add(version);
      command.add(std::string_view("_ts:" + *view));
      command.add(std::string_view(stamp));
      for (const auto& [field, data] : fields) {
        value.clear();
        if (!data.empty()) put_delimited(value, 1, data);
        command.add(std::string_view(field->hashed));
        command.add(std::string_view(value));
      }
    }
  }

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
