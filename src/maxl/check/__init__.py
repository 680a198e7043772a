"""Is the double gradient exact on these networks, and what does it cost?"""

from maxl.check._report import HypergradientReport, MethodResult, check_hypergradient

__all__ = ["HypergradientReport", "MethodResult", "check_hypergradient"]
