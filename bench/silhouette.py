"""What structured fields add to a title: silhouette of films by genre, title against title + tags (LLM-3).

The same encoder embeds both texts; the label (first genre) is in neither: tags that hold a word of any genre are left
out. Silhouettes are compared film by film; the interval is a bootstrap over films.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.report import finish
from features.llm import LocalProvider
from features.llm.text import item_text
from liverank.v1.event_pb2 import Attribute
from liverank.v1.item_pb2 import Item

MIN_TAGS, MIN_FILMS = 3, 30
N_BOOTSTRAP = 2_000
_WORD = re.compile(r"[a-z]+")


def films(folder: Path) -> tuple[list[Item], list[str]]:
    """Films with at least 3 usable tags, of genres with at least 30 such films, and their first genres."""
    with (folder / "movies.csv").open(newline="") as file:
        movies = {row["movieId"]: row for row in csv.DictReader(file)}
    genre_words = {word for row in movies.values() for word in _WORD.findall(row["genres"].lower())} | {
        "sci",
        "fi",
        "scifi",
    }
    tags: dict[str, list[str]] = defaultdict(list)
    with (folder / "tags.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            tag = row["tag"].strip().lower()
            if not genre_words & set(_WORD.findall(tag)) and tag not in tags[row["movieId"]]:
                tags[row["movieId"]].append(tag)
    found = [(movies[movie], tags[movie]) for movie in sorted(tags) if len(tags[movie]) >= MIN_TAGS]
    genres = [row["genres"].split("|")[0] for row, _ in found]
    kept = [at for at, genre in enumerate(genres) if genres.count(genre) >= MIN_FILMS]
    items = []
    for at in kept:
        row, own = found[at]
        item = Item(item_id=row["movieId"], title=row["title"])
        for number, tag in enumerate(sorted(own)):
            item.attributes[f"tag_{number:02d}"].CopyFrom(Attribute(text=tag))
        items.append(item)
    return items, [genres[at] for at in kept]


def silhouettes(vectors: NDArray[np.float32], labels: list[str]) -> NDArray[np.float64]:
    """Silhouette of each film under cosine distance."""
    from sklearn.metrics import silhouette_samples

    return np.asarray(silhouette_samples(vectors, labels, metric="cosine"), dtype=np.float64)


def main(arguments: list[str]) -> int:
    """Run and print; exit code 1 unless the whole interval of the difference is above 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    root = Path(os.environ.get("LIVERANK_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--data", type=Path, default=root / "ml-latest-small", help="folder of movies.csv and tags.csv")
    parser.add_argument("--dim", type=int, default=64, choices=(64, 128, 256))
    given = parser.parse_args(arguments)
    items, labels = films(given.data)
    provider = LocalProvider(given.dim)
    title = silhouettes(provider.embed([item_text(item, structured=False) for item in items]).vectors, labels)
    enriched = silhouettes(provider.embed([item_text(item) for item in items]).vectors, labels)
    delta = enriched - title
    rng = np.random.default_rng(1)
    means = delta[rng.integers(0, len(delta), (N_BOOTSTRAP, len(delta)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    figures = {
        "films": len(items),
        "genres": len(set(labels)),
        "dim": given.dim,
        "title": round(float(title.mean()), 5),
        "title_and_fields": round(float(enriched.mean()), 5),
        "delta": round(float(delta.mean()), 5),
        "delta_low_95": round(float(low), 5),
        "delta_high_95": round(float(high), 5),
    }
    return finish("silhouette", figures, {"delta_low_95": (">=", 0.0)})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
