"""State of users and items as pure functions of their events: no clock, no network, no stream.

Used by the stream folds, by training over imported history, and by tests. Every part is its own wire format: it keeps
the bytes that are stored, changes them in place, and hands out only pages that changed. Layout: docs/specs/state.md.
"""
