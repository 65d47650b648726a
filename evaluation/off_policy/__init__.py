"""What another policy would have earned on logged decisions, and whether the log can tell."""

from evaluation.off_policy.audit import SlotAudit, audit
from evaluation.off_policy.cascade import CascadeDR
from evaluation.off_policy.crossfit import cross_fit, shrunk_rates
from evaluation.off_policy.diagnostics import Diagnostics, diagnose
from evaluation.off_policy.direct import DM
from evaluation.off_policy.doubly_robust import DR
from evaluation.off_policy.errors import InvalidLogError, NoSupportError, OffPolicyError
from evaluation.off_policy.estimator import Estimator, Terms
from evaluation.off_policy.evaluate import Estimate, evaluate
from evaluation.off_policy.frames import Columns, read_frame
from evaluation.off_policy.gate import Verdict, gate
from evaluation.off_policy.independent_ips import IIPS
from evaluation.off_policy.interaction_ips import RIPS
from evaluation.off_policy.intervals import interval
from evaluation.off_policy.ips import IPS
from evaluation.off_policy.logs import Log, SlateLog
from evaluation.off_policy.pseudo_inverse import PI, slate_weights
from evaluation.off_policy.shrinkage import DRos
from evaluation.off_policy.slate_ips import SlateIPS
from evaluation.off_policy.snips import SNIPS
from evaluation.off_policy.switch import SwitchDR

ESTIMATORS: tuple[Estimator[Log], ...] = (IPS(), SNIPS(), DM(), DR(), SwitchDR(), DRos())
"""Estimators of single decisions, at their defaults."""
SLATE_ESTIMATORS: tuple[Estimator[SlateLog], ...] = (
    SlateIPS(),
    SlateIPS(normalised=True),
    IIPS(),
    RIPS(),
    RIPS(normalised=True),
    CascadeDR(),
    PI(),
    PI(normalised=True),
)
"""Estimators of slates, at their defaults."""

__all__ = [
    "DM",
    "DR",
    "ESTIMATORS",
    "IIPS",
    "IPS",
    "PI",
    "RIPS",
    "SLATE_ESTIMATORS",
    "SNIPS",
    "CascadeDR",
    "Columns",
    "DRos",
    "Diagnostics",
    "Estimate",
    "Estimator",
    "InvalidLogError",
    "Log",
    "NoSupportError",
    "OffPolicyError",
    "SlateIPS",
    "SlateLog",
    "SlotAudit",
    "SwitchDR",
    "Terms",
    "Verdict",
    "audit",
    "cross_fit",
    "diagnose",
    "evaluate",
    "gate",
    "interval",
    "read_frame",
    "shrunk_rates",
    "slate_weights",
]
