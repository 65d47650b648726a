"""What an operator asks about features: which there are and in what state, where they come from, whether they hold."""

from evaluation.features.inventory import Feature, declared_here, differences, inventory, lineage

__all__ = ["Feature", "declared_here", "differences", "inventory", "lineage"]
