"""Errors that are the user's to mend."""


class UsageError(ValueError):
    """Input that nfbench cannot use; its message says what was expected, what was got, and what would work."""
