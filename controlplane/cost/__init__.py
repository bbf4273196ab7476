"""What calls cost, and who still has money: prices, budgets, and the sums that the ledger holds.

Money is counted in whole micro US dollars, rounded up. Fails closed: a budget that cannot be asked, or an account that
cannot be told, refuses the call. What a call was held to cost stays spent until it is known to have cost less.
"""

from controlplane.cost.budgets import Account, Budgets, BudgetUse, Exhausted, Held, Limit, MemoryBudgets
from controlplane.cost.pricing import Rates, Work, energy_uwh, micro_usd
from controlplane.cost.settings import CostSettings

__all__ = [
    "Account",
    "BudgetUse",
    "Budgets",
    "CostSettings",
    "Exhausted",
    "Held",
    "Limit",
    "MemoryBudgets",
    "Rates",
    "Work",
    "energy_uwh",
    "micro_usd",
]
