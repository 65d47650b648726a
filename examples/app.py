"""An app: ask for a slate, tell what the user did with it. Run it against a stack (`liverank up`)."""

from __future__ import annotations

import sys

from liverank import Client, new_event


def main(user_id: str) -> None:
    with Client() as client:
        reply = client.rank(user_id, k=5, surface="home")
        for item in reply.items:
            print(f"{item.position}. {item.item_id:12} score {item.score:.3f}  propensity {item.propensity:.3f}")
        if not reply.items:
            return
        first = reply.items[0]
        # The request_id ties the click to the slate that caused it: without it nothing is learned about the slate.
        click = new_event(
            "click", user_id=user_id, item_id=first.item_id, request_id=reply.request_id, position=1, surface="home"
        )
        print("accepted:", client.track([click]).accepted)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "user-1")
