"""The direct method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from evaluation.off_policy.estimator import Terms
from evaluation.off_policy.logs import Log


@dataclass(frozen=True, kw_only=True)
class DM:
    """Mean of the reward model under the target policy: as right as the model is.

    Its interval knows nothing of the model's error and is far too narrow; quote it beside DR, never alone.
    """

    name: ClassVar[str] = "dm"

    def terms(self, log: Log) -> Terms:
        """See `Estimator.terms`."""
        _, expected = log.model(self.name)
        return Terms(expected[:, None], None, None)
