"""Kill a call at its k-th change of a file, for every k: what is left must open, and the next call must complete."""

import os
import sys
import warnings
from itertools import count

_CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink")


def killed_at(number, call, folder):
    """Run a call in a child that dies before its change of this number below a folder; whether it died."""
    sys.stdout.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads
        child = os.fork()
    if child == 0:
        _die_at(number, os.fspath(folder))
        try:
            call()
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9), code
    return code == 9


def kills(call, folder, every=1):
    """Kill a call at each of its changes, in turn (or at some of them); yield after each kill, until it completes."""
    for number in count(step=every):
        if not killed_at(number, call, folder):
            assert number > 2, "the call changes nothing that can be seen"
            return
        yield number


def _die_at(number, folder):
    left = [number]

    def seen(event, args):
        if event == "open":
            path, _, flags = args
            changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            path, changes = (args[0] if args else ""), event in _CHANGES
        if changes and isinstance(path, str | os.PathLike) and os.fspath(path).startswith(folder):
            if not left[0]:
                os._exit(9)
            left[0] -= 1

    sys.addaudithook(seen)
