"""The errors a user of the programs can meet, each with the exit code it ends a program with."""

from __future__ import annotations


class ClvError(Exception):
    """Something that the user can mend: the message says what was expected, found, where, and what to do."""

    exit_code = 1


class ConfigError(ClvError):
    """A setting, or the way a program was called, is wrong."""

    exit_code = 2


class ModelError(ClvError):
    """No usable model: none promoted for this date, of another company, tampered with, or not fittable."""

    exit_code = 2


class TableError(ClvError):
    """The company's data broke its contract; nothing was published."""

    exit_code = 3


class PublishError(ClvError):
    """An audit refused the results; nothing was published."""

    exit_code = 4


class BusyError(PublishError):
    """Another run holds this month; nothing was published."""

    exit_code = 5
