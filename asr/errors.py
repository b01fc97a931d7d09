"""The one exception a user can cause: its text is a single clear sentence."""


class UserError(Exception):
    """Bad input. The command line prints ``error: <text>`` and exits with status 2; nothing has been written."""
