"""What calls cost, and the cap that they never pass."""

from __future__ import annotations

from dataclasses import dataclass

from features.llm.errors import CostCapError, ProviderConfigError
from features.llm.provider import Usage

_MILLION = 1e6


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Per million tokens, in any one currency."""

    input: float = 0.0
    output: float = 0.0

    def cost(self, usage: Usage) -> float:
        """Cost of a usage."""
        return (usage.input_tokens * self.input + usage.output_tokens * self.output) / _MILLION


class Ledger:
    """Counts cost and refuses a call that could pass the cap.

    Parameters
    ----------
    prices : Prices
    cap : float
        Upper bound of the sum; 0 with a price is refused, so that nobody pays by accident.

    Raises
    ------
    ProviderConfigError
        A price without a cap.
    """

    def __init__(self, prices: Prices, cap: float = 0.0) -> None:
        if (prices.input > 0 or prices.output > 0) and cap <= 0:
            raise ProviderConfigError("a provider with a price needs llm.max_cost > 0: the most that this job may cost")
        self.prices, self.cap = prices, cap
        self.usage = Usage()
        self.calls = 0

    @property
    def spent(self) -> float:
        """Cost so far."""
        return self.prices.cost(self.usage)

    def reserve(self, worst: Usage) -> None:
        """Call before a provider is called, with the most tokens it can use.

        Raises
        ------
        CostCapError
            The sum could pass the cap; the call must not be made.
        """
        if self.cap > 0 and self.spent + self.prices.cost(worst) > self.cap:
            raise CostCapError(
                f"the cap of {self.cap:g} could be passed: {self.spent:.6g} spent in {self.calls} calls, the next "
                f"may cost {self.prices.cost(worst):.6g}. What was done is cached; raise llm.max_cost to go on"
            )

    def charge(self, usage: Usage) -> None:
        """Call with what a call used."""
        self.usage += usage
        self.calls += 1


def worst_case(texts_bytes: int, output_tokens: int = 0) -> Usage:
    """The most tokens that texts of so many bytes can be: one a byte."""
    return Usage(input_tokens=texts_bytes, output_tokens=output_tokens)
