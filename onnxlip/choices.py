"""Names that the command line offers and the library takes, for both to import."""

__all__ = ["METHODS", "SEARCHES"]

METHODS = (  # of upper bounds
    "auto",
    "autolip",
    "scaled",
    "liplt",
    "closed",
    "seqlip",
    "lipsdp-layer",
    "lipsdp",
    "exact",
)
SEARCHES = ("auto", "none", "sign-power", "greedy", "exact")  # of SeqLip
