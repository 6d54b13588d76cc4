"""The version of the package; nothing else says it."""

__version__ = "0.2.0.dev0"
