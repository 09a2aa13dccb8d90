"""Files whose bytes nobody waits for until they are on the disk: no test cuts the power, and each wait takes milliseconds."""

import os

slow_sync = os.fsync


def quick_sync(file):
    """Nothing, for a file that is open; as before an error for one that is not."""
    os.fstat(file)


def quicken():
    """Has this process use it."""
    os.fsync = quick_sync
