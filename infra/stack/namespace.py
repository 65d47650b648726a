"""What a namespace needs before its processes start: topics, generation, token, features, a base model.

All of it is safe to repeat.
"""

from __future__ import annotations

import os
import subprocess
import sys

from infra.errors import StackError
from liverank.settings import Settings

FIRST_GENERATION = 1
APPLY_TIMEOUT_S = 180


def create(settings: Settings) -> int:
    """Create the topics that are missing, and the keys that name the namespace's generation and its token.

    Parameters
    ----------
    settings : Settings
        Resolved.

    Returns
    -------
    int
        The active generation.
    """
    from features.redis import connect, namespace_token, translated
    from liverank.kafka import create_topics

    with connect(settings) as client, translated("creating the namespace"):
        client.set(f"{settings.namespace}:active", FIRST_GENERATION, nx=True)
        namespace_token(client, settings.namespace)
        generation = int(client.get(f"{settings.namespace}:active"))
    create_topics(settings.kafka.bootstrap, settings, generation)
    return generation


def apply_features(settings: Settings) -> str:
    """Register the feature views with Feast and publish the compiled program.

    In a process of its own: Feast takes seconds to import.

    Returns
    -------
    str
        Path of the namespace's `feature_store.yaml`.

    Raises
    ------
    StackError
        The definitions were refused; the message is Feast's or the provider's.
    """
    done = subprocess.run(
        [sys.executable, "-m", "features.apply"],
        env={**os.environ, **settings.environment()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=APPLY_TIMEOUT_S,
        check=False,
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        raise StackError(f"feast apply failed: {_last_lines(done.stderr or done.stdout)}")
    return lines[-1]


def base_model(settings: Settings) -> str:
    """Make sure that the ranker has a model: the smoothed rate by slot until training has made a better one."""
    from ranker.models import ensure_base_model

    return str(ensure_base_model(settings))


def _last_lines(text: str, n_lines: int = 12) -> str:
    return "\n".join(text.strip().splitlines()[-n_lines:])
