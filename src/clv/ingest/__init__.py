"""The company's tables -> core tables: renamed, typed, cut at as_of, converted, checked."""

from clv.ingest.loading import Account, Loaded, customer_names, load, rejected_rows

__all__ = ["Account", "Loaded", "customer_names", "load", "rejected_rows"]
