"""The version of the distribution that `spae` and `spae_ops` come in; pyproject.toml reads it here."""

__version__ = "0.1.0"
