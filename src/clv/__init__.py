"""Customer value: grades, and the reasons for them."""

__version__ = "0.1.0"
