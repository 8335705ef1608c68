"""The errors that end a verb with one sentence and no traceback."""

import errno

# Errors of a disk that is full, write-protected or broken.
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO}

# What it says of a path that cannot be: the user gave a name that is too long, or taken.
PATH_ERRORS = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}


class InputError(Exception):
    """Input that cannot be used; exit code 2.

    The message is one sentence (or one per line, if there are several things to fix) that names
    the file, the field, what was found and what was expected.
    """


class BusyError(Exception):
    """Another run holds what this one needs; exit code 75: the same command works later.

    The message is one sentence that says what, and who holds it.
    """


class RunError(Exception):
    """Something failed during the run: a full disk, non-finite values; exit code 1.

    The message is one sentence that says what, where, and what is left of the run.
    """
