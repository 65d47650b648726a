"""What the ranker asks of a model."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ranker.models.manifest import Manifest


class Model(Protocol):
    """Heads over candidate rows. Immutable once loaded.

    Each thread needs its own `predict` buffers, so one instance serves one thread at a time; `clone` gives another
    thread its own.
    """

    @property
    def manifest(self) -> Manifest:
        """What it is made for; call `manifest.check` before serving."""
        ...

    @property
    def model_id(self) -> str:
        """SHA-256 (hex) of the manifest."""
        ...

    @property
    def heads(self) -> tuple[str, ...]:
        """Heads, in the order of the columns of `predict`."""
        ...

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Columns of X; empty where the model reads none (any X is accepted)."""
        ...

    @property
    def space(self) -> str:
        """Vector space that it was trained in; empty = reads none."""
        ...

    @property
    def schema(self) -> str:
        """Bandit feature schema that its statistics are kept under."""
        ...

    @property
    def engine(self) -> str:
        """What evaluates it: `table`, `tl2cgen` or `lightgbm` (the slow rung)."""
        ...

    def predict(self, X: NDArray[np.float32], slot: NDArray[np.int32]) -> NDArray[np.float64]:
        """Calibrated probabilities of the heads given exposure at a slot.

        Slot and neutralised columns are written by the model: what X holds there is ignored, and X is not changed.

        Parameters
        ----------
        X : float32, shape (n, F)
            Rows of `ranker.columns.COLUMNS`.
        slot : int32, shape (n,)
            Slot of each row, from 1.

        Returns
        -------
        float64, shape (n, H), each in (0, 1)
        """
        ...

    def raw(self, X: NDArray[np.float32], slot: NDArray[np.int32]) -> NDArray[np.float64]:
        """Raw scores (log-odds before calibration), float64, shape (n, H)."""
        ...

    def light(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Cheap score to thin many candidates, float64, shape (n,): higher is better, only its order means anything."""
        ...

    def contributions(self, X: NDArray[np.float32], slot: NDArray[np.int32], head: int = 0) -> NDArray[np.float64]:
        """What each feature adds to the raw score of a head (TreeSHAP).

        Returns
        -------
        float64, shape (n, F + 1)
            The last column is the bias; each row sums to `raw(X, slot)[:, head]` to 1e-9 relative.
        """
        ...

    def clone(self) -> Model:
        """The same model for another thread."""
        ...
