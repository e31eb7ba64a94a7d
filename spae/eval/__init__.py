"""Measures of tokenizers, figures and reports."""
