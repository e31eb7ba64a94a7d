"""In-context tasks: what a frozen language model is shown, what it is asked, and what counts as right."""

from spae.incontext.tasks.classification import Verdict, classification_task, classify

__all__ = ["Verdict", "classification_task", "classify"]
