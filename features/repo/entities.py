"""Entities: whom features belong to."""

from feast import Entity
from feast.value_type import ValueType

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING, description="Who is served.")
item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING, description="What can be shown.")
session = Entity(
    name="session", join_keys=["session_id"], value_type=ValueType.STRING, description="One visit of a user."
)
category = Entity(
    name="category",
    join_keys=["category"],
    value_type=ValueType.STRING,
    description="First category of an item; with user: what a user does within it.",
)
