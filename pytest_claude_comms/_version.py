"""The version, alone in a file, so that an archive without ``.git`` builds."""

__version__ = "0.1.0"
