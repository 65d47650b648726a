"""The proof: one dismissal changes features, vectors, posterior and the next slate in time, and no model weight."""

from __future__ import annotations

from evaluation.proof.lines import Line, Reading
from evaluation.proof.run import ProofPlan, Report, prove

__all__ = ["Line", "ProofPlan", "Reading", "Report", "prove"]
