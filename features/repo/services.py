"""Feature services: what a model reads. Read them with `full_feature_names=True`: names repeat over entities."""

from feast import FeatureService
from item_views import (
    item_activity,
    item_catalogue,
    item_neighbours,
    item_semantic,
    item_surfaces,
    item_trend,
    item_variants,
)
from user_views import user_activity, user_category_activity, user_history, user_seen, user_session, user_vectors
from windows import item_windows, user_category_windows, user_windows

from features.crosses import cross_view

crosses = cross_view(item_activity, user_category_activity, user_vectors, item_catalogue, item_semantic)

ranker_v1 = FeatureService(
    name="ranker_v1",
    description="Columns of the ranker's models, form 1 (ranker/columns.py), and the views behind them.",
    features=[user_windows, item_windows, user_category_windows, crosses],
    tags={"liverank.model": "ranker_v1"},
    owner="liverank",
)

user_state_v1 = FeatureService(
    name="user_state_v1",
    description="Everything stored of a user: what one Rank reads.",
    features=[user_activity, user_category_activity, user_history, user_session, user_seen, user_vectors],
    owner="liverank",
)

item_state_v1 = FeatureService(
    name="item_state_v1",
    description="Everything stored of an item: what rankers load at start.",
    features=[
        item_activity,
        item_trend,
        item_surfaces,
        item_neighbours,
        item_variants,
        item_catalogue,
        item_semantic,
    ],
    owner="liverank",
)
