"""The one exception that means the user can mend it: no traceback, one sentence, exit code 2."""


class InputError(Exception):
    """Something the user handed over cannot be used.

    The message is one sentence (or one a line, if there are several things to mend) that names
    the file, the field, what was found and what was expected.
    """
