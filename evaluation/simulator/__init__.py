"""A simulated world: catalogue, people, choices, a recorded past; deterministic by seed. Imports the contract only."""

from __future__ import annotations

from evaluation.simulator.behaviour import Behaviour, Reaction
from evaluation.simulator.catalogue import Catalogue
from evaluation.simulator.history import history
from evaluation.simulator.parameters import Effects, WorldParams
from evaluation.simulator.policies import LoggingPolicy, best_rows, plackett_luce
from evaluation.simulator.population import Population, User
from evaluation.simulator.probes import Probe, probe
from evaluation.simulator.utility import Utility
from evaluation.simulator.world import World

__all__ = [
    "Behaviour",
    "Catalogue",
    "Effects",
    "LoggingPolicy",
    "Population",
    "Probe",
    "Reaction",
    "User",
    "Utility",
    "World",
    "WorldParams",
    "best_rows",
    "history",
    "plackett_luce",
    "probe",
]
