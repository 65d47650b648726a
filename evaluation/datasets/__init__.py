"""Public data sets in the contract's words: each converter gives items and events, in time order, with stable ids."""

from __future__ import annotations

from evaluation.datasets.dataset import Dataset, load

__all__ = ["Dataset", "load"]
