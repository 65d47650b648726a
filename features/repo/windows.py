"""On-demand views `user_windows`, `item_windows`, `user_category_windows` and, where there are views of
sessions, `session_windows`: every aggregate of every stream view.

Made from the definitions in this folder whenever Feast reads it; do not import this file from one that defines stream
views.
"""

from pathlib import Path

from features.generate import window_views

user_windows, item_windows, user_category_windows, *others = window_views(
    Path(__file__).parent, "user", "item", "user_category", optional=["session"]
)
if others:
    session_windows = others[0]
