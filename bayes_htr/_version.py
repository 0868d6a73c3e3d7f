"""The version, in a module of its own: the build reads it, and so does the command line."""

__version__ = "0.1.0"
