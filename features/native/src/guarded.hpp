// Transactions behind a watch, the talk with Redis included (features/redis.py: write_guarded says what it means).
//
// It waits for Redis with every transaction; whoever folds meanwhile holds Python's lock for long, so none of this asks
// for it.
#pragma once

#include <cerrno>
#include <charconv>
#include <optional>
#include <poll.h>
#include <stdexcept>
#include <sys/socket.h>

#include "base.hpp"

// Linux has both; elsewhere the process ignores the signal (Python does), and pieces travel alone.
#ifndef MSG_MORE
#define MSG_MORE 0
#endif
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

namespace lr {

// Replies as they come off the wire: of numbers and statuses only that they came is kept. Needs no Python.
class Replies {
 public:
  using Strings = std::vector<std::optional<std::string>>;

  explicit Replies(size_t n) : left_(n) {}

  // Whether all have come.
  bool feed(std::string_view data) {
    data_ += data;
    size_t at = 0;
    for (size_t end = 0; left_ > 0 && skip(end); at = end, --left_) take(at);
    data_.erase(0, at);
    if (left_ == 0 && !data_.empty()) throw Nonsense("more than it was asked");
    return left_ == 0;
  }

  std::vector<std::optional<Strings>> arrays;  // of each array its strings
  std::vector<std::string> errors;             // in order, those in arrays too

  struct Nonsense : std::runtime_error {
    using std::runtime_error::runtime_error;
  };

 private:
  // Text of the line that begins at `at`, which moves behind it.
  std::string_view line(size_t& at) const {
    const size_t end = data_.find("\r\n", at);
    const std::string_view found(&data_[at], end - at);
    at = end + 2;
    return found;
  }

  static i64 length(std::string_view digits) {
    i64 value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc{} || end != digits.data() + digits.size())
      throw Nonsense("a length that is none: " + std::string(digits.substr(0, 40)));
    return value;
  }

  // Move `at` behind the reply that begins there; false = it is not there to its end.
  bool skip(size_t& at) const {
    size_t end = at;
    for (i64 left = 1; left > 0; --left) {
      if (data_.find("\r\n", end) == std::string::npos) return false;
      const char kind = data_[end++];
      const std::string_view rest = line(end);
      if (kind == '*') {
        left += std::max<i64>(0, length(rest));
      } else if (kind == '$') {
        if (const i64 size = length(rest); size >= 0) end += static_cast<size_t>(size) + 2;
        if (end > data_.size()) return false;
      } else if (kind != '+' && kind != '-' && kind != ':') {
        throw Nonsense(std::string("a reply of kind '") + kind + "'");
      }
    }
    at = end;
    return true;
  }

  void take(size_t at) {
    const char kind = data_[at++];
    const std::string_view rest = line(at);
    if (kind == '-') errors.emplace_back(rest);
    if (kind != '*') return;
    i64 left = length(rest);
    auto& strings = arrays.emplace_back();
    if (left < 0) return;
    strings.emplace();
    for (; left > 0; --left) {
      const char each = data_[at++];
      const std::string_view own = line(at);
      if (each == '-') errors.emplace_back(own);
      if (each == '*') left += std::max<i64>(0, length(own));
      if (each != '$') continue;
      const i64 size = length(own);
      auto& string = strings->emplace_back();
      if (size < 0) continue;
      string = data_.substr(at, static_cast<size_t>(size));
      at += static_cast<size_t>(size) + 2;
    }
  }

  std::string data_;
  size_t left_;
};

// A connection, until it fails.
class Line {
 public:
  struct Away : std::runtime_error {
    using std::runtime_error::runtime_error;
  };

  Line(int socket, int timeout_ms) : socket_(socket), timeout_ms_(timeout_ms) {}

  // `more`: what follows at once may travel with it.
  void send(std::string_view data, bool more = false) const {
    while (!data.empty()) {
      const ssize_t n = ::send(socket_, data.data(), data.size(), MSG_NOSIGNAL | MSG_DONTWAIT | (more ? MSG_MORE : 0));
      if (n >= 0)
        data.remove_prefix(static_cast<size_t>(n));
      else
        wait(POLLOUT, "sending");
    }
  }

  // So many replies.
  Replies receive(size_t n) {
    Replies replies(n);
    buffer_.resize(64 * 1024);
    for (bool done = false; !done;) {
      const ssize_t got = ::recv(socket_, buffer_.data(), buffer_.size(), MSG_DONTWAIT);
      if (got == 0) throw Away("Redis closed the connection");
      if (got < 0)
        wait(POLLIN, "waiting for its answer");
      else
        done = replies.feed({buffer_.data(), static_cast<size_t>(got)});
    }
    return replies;
  }

 private:
  // Until it can be tried again.
  void wait(short what, const char* doing) const {
    if (errno == EINTR) return;
    if (errno != EAGAIN && errno != EWOULDBLOCK) throw Away(std::string(doing) + ": " + std::strerror(errno));
    pollfd one{socket_, what, 0};
    if (::poll(&one, 1, timeout_ms_) == 0) throw Away(std::string(doing) + " took too long");
  }

  const int socket_, timeout_ms_;
  std::string buffer_;
};

struct Guarded {
  std::string_view look;              // commands that watch and read what it rests on
  std::vector<Replies::Strings> holds;  // what they must answer
  std::string_view commands;
  size_t n_commands;
};

// Run each; say of each whether it has run. The first refusal ends it: its text is put into `refused`.
inline std::vector<bool> run_guarded(Line& line, const std::vector<Guarded>& all, std::string& refused) {
  static constexpr std::string_view kMulti = "*1\r\n$5\r\nMULTI\r\n", kExec = "*1\r\n$4\r\nEXEC\r\n",
                                    kUnwatch = "*1\r\n$7\r\nUNWATCH\r\n";
  std::vector<bool> done;
  size_t n = 0, first = 0;
  auto look = [&](size_t at) {
    if (at < all.size()) line.send(all[at].look);
    n = at < all.size() ? 1 + all[at].holds.size() : 0;
  };
  look(0);
  Replies replies = line.receive(n);
  for (const Guarded& one : all) {
    if (!replies.errors.empty()) break;
    bool held = true;
    for (size_t at = 0; at < one.holds.size(); ++at) held = held && replies.arrays.at(first + at) == one.holds[at];
    const bool more = done.size() + 1 < all.size();
    if (held) {
      line.send(kMulti, true);
      line.send(one.commands, true);
      line.send(kExec, more);
    } else {
      line.send(kUnwatch, more);
    }
    look(done.size() + 1);
    replies = line.receive((held ? one.n_commands + 2 : 1) + n);
    if (!replies.errors.empty()) break;
    done.push_back(held && replies.arrays.at(0).has_value());
    first = held ? 1 : 0;
  }
  if (!replies.errors.empty()) refused = replies.errors.front();
  return done;
}

// Lets other threads have Python's lock.
class Unlocked {
 public:
  Unlocked() : state_(PyEval_SaveThread()) {}
  Unlocked(const Unlocked&) = delete;
  ~Unlocked() { PyEval_RestoreThread(state_); }

 private:
  PyThreadState* state_;
};

// write_guarded(socket, timeout_ms, transactions) -> (done: list of bool, refused: bytes, away: bytes)
//
// A transaction: (look: bytes, holds: list of list of bytes, commands: bytes, how many). `refused`: an error that Redis
// answered, everything was read; `away`: the connection is not to be used any more. Empty = no.
inline PyObject* write_guarded(PyObject*, Arguments args, Py_ssize_t n) {
  return guarded([&] {
    expect(n, 3, 3);
    std::vector<Guarded> all;
    for (Py_ssize_t at = 0; at < PyList_Size(args[2]); ++at) {
      PyObject *look, *holds, *commands;
      Py_ssize_t n_commands;
      if (!PyArg_ParseTuple(PyList_GET_ITEM(args[2], at), "SO!Sn", &look, &PyList_Type, &holds, &commands, &n_commands))
        throw Raised{};
      Guarded& one = all.emplace_back(Guarded{bytes_of(look), {}, bytes_of(commands), static_cast<size_t>(n_commands)});
      for (Py_ssize_t hash = 0; hash < PyList_GET_SIZE(holds); ++hash) {
        PyObject* fields = PyList_GET_ITEM(holds, hash);
        auto& strings = one.holds.emplace_back();
        for (Py_ssize_t field = 0; field < PyList_Size(fields); ++field)
          strings.emplace_back(bytes_of(PyList_GET_ITEM(fields, field)));
      }
    }
    Line line(static_cast<int>(integer(args[0])), static_cast<int>(integer(args[1])));
    std::vector<bool> done;
    std::string refused, away;
    if (!all.empty()) {
      Unlocked unlocked;
      try {
        done = run_guarded(line, all, refused);
      } catch (const Line::Away& error) {
        away = error.what();
      } catch (const Replies::Nonsense& error) {
        away = std::string("Redis answered ") + error.what();
      }
    }
    Ref list(checked(PyList_New(0)));
    for (bool each : done) append(list.get(), Ref(PyBool_FromLong(each)));
    return checked(Py_BuildValue("Oy#y#", list.get(), refused.data(), static_cast<Py_ssize_t>(refused.size()), away.data(),
                                 static_cast<Py_ssize_t>(away.size())));
  });
}

}  // namespace lr
