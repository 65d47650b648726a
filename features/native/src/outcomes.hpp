// Outcomes of one user, in pages: the same bytes as features/state/outcomes.py, which says what they mean.
#pragma once

#include <set>

#include "changes.hpp"

namespace lr {

class Outcomes {
 public:
  static constexpr size_t kPerPage = 16, kMost = 256, kMostBytes = 12 * 1024;

  bool empty() const { return n_ == 0; }

  // Take a page as it is stored.
  void restore(std::vector<Outcome> page) {
    for (const Outcome& each : page) count(each, 1);
    pages_.push_back(std::move(page));
  }

  bool has_room(const Outcome& outcome) const { return n_ < kMost && bytes_ + outcome.size_bytes() <= kMostBytes; }

  void add(Outcome outcome) {
    size_t page = 0;
    while (page < pages_.size() && pages_[page].size() >= kPerPage) ++page;
    if (page == pages_.size()) pages_.emplace_back();
    count(outcome, 1);
    pages_[page].push_back(std::move(outcome));
    dirty_.insert(page);
  }

  Outcome take_oldest() {
    const Outcome* oldest = nullptr;
    for (const auto& page : pages_)
      for (const Outcome& each : page)
        if (oldest == nullptr || each.age() < oldest->age()) oldest = &each;
    Outcome taken = *oldest;
    erase_if([&](const Outcome& each) { return &each == oldest; });
    return taken;
  }

  // Whether any went. `gone` is asked once for each, before any moves in its page.
  template <class Gone>
  bool erase_if(Gone gone) {
    const size_t before = n_;
    for (size_t page = 0; page < pages_.size(); ++page) {
      std::vector<Outcome>& all = pages_[page];
      size_t first = 0;
      while (first < all.size() && !gone(all[first])) ++first;
      if (first == all.size()) continue;
      std::vector<bool> going(all.size());
      going[first] = true;
      for (size_t at = first + 1; at < all.size(); ++at) going[at] = gone(all[at]);
      size_t kept = first;
      for (size_t at = first; at < all.size(); ++at) {
        if (going[at])
          count(all[at], -1);
        else
          all[kept++] = std::move(all[at]);
      }
      all.resize(kept);
      dirty_.insert(page);
    }
    for (size_t page = 0; n_ < before && page < pages_.size();) {
      if (!pages_[page].empty()) {
        ++page;
        continue;
      }
      std::vector<Outcome> last = std::move(pages_.back());
      pages_.pop_back();
      dirty_.insert(pages_.size());
      if (page < pages_.size()) pages_[page] = std::move(last);
    }
    return n_ < before;
  }

  // `change` says whether it changed the outcome.
  template <class Change>
  void change_each(Change change) {
    for (size_t page = 0; page < pages_.size(); ++page)
      for (Outcome& each : pages_[page])
        if (change(each)) dirty_.insert(page);
  }

  template <class Look>
  void each(Look look) const {
    for (const auto& page : pages_)
      for (const Outcome& each : page) look(each);
  }

  static Names& names() {
    static Names all("_o");
    return all;
  }

  void gather(PyObject* changed) {
    std::string packed;
    for (size_t page : dirty_) {
      packed.clear();
      if (page < pages_.size())
        for (const Outcome& each : pages_[page]) each.write(packed);
      put(changed, names()[page], page_or_nothing(packed));
    }
    dirty_.clear();
  }

 private:
  void count(const Outcome& outcome, int sign) {
    n_ += static_cast<size_t>(sign);
    bytes_ += static_cast<size_t>(sign) * outcome.size_bytes();
  }

  std::vector<std::vector<Outcome>> pages_;
  size_t n_ = 0, bytes_ = 0;
  std::set<size_t> dirty_;
};

}  // namespace lr
