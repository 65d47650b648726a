"""One policy per file; importing this package registers them all."""

from bandits.policies.boltzmann import Boltzmann
from bandits.policies.doubt import ThompsonDoubt
from bandits.policies.epsilon_greedy import EpsilonGreedy, EpsilonGreedyItems
from bandits.policies.greedy import Greedy
from bandits.policies.thompson import Thompson, ThompsonDisjoint, ThompsonHybrid, ThompsonLogistic
from bandits.policies.two_level import TwoLevel
from bandits.policies.ucb import LinUCB, LinUCBDisjoint, LinUCBHybrid
from bandits.policies.uniform import Uniform

__all__ = [
    "Boltzmann",
    "EpsilonGreedy",
    "EpsilonGreedyItems",
    "Greedy",
    "LinUCB",
    "LinUCBDisjoint",
    "LinUCBHybrid",
    "Thompson",
    "ThompsonDisjoint",
    "ThompsonDoubt",
    "ThompsonHybrid",
    "ThompsonLogistic",
    "TwoLevel",
    "Uniform",
]
