"""The version, where modules of every layer can read it."""

__version__ = "0.1.0"
