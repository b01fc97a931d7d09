"""What a user did wrong, in one sentence."""


class ItnError(ValueError):
    """Bad input or a missing part: an unknown profile, option or category, a damaged file, no kaldifst."""


class LexiconError(ItnError):
    """A line of a user lexicon that cannot be used, named as ``FILE:LINE``."""
