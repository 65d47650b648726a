"""What a namespace's exploration did, from its log: report, verification, plots."""

from evaluation.exploration.admission import Admission, admit
from evaluation.exploration.plots import draw_plots
from evaluation.exploration.policy_value import Clustered, PolicyLog, policy_log
from evaluation.exploration.reader import LogReader, Outcome, Thinned
from evaluation.exploration.report import (
    ArmReport,
    ExplorationReport,
    GroupReport,
    arms_of,
    exploration_report,
    regret_of,
)
from evaluation.exploration.tables import arm_table, report_tables
from evaluation.exploration.verify import Verification, verify_log
from evaluation.exploration.weights import drawn_slots, judge, weight_figures

__all__ = [
    "Admission",
    "ArmReport",
    "Clustered",
    "ExplorationReport",
    "GroupReport",
    "LogReader",
    "Outcome",
    "PolicyLog",
    "Thinned",
    "Verification",
    "admit",
    "arm_table",
    "arms_of",
    "draw_plots",
    "drawn_slots",
    "exploration_report",
    "judge",
    "policy_log",
    "regret_of",
    "report_tables",
    "verify_log",
    "weight_figures",
]
