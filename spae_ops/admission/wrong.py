"""How an examination ends before its end."""


class Wrong(Exception):
    """A kernel did what it must not do."""


class Void(Exception):
    """What was found says nothing."""
