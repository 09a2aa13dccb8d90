"""The threads of DoFns whose elements are worked on side by side, started once in a process.

Each of these DoFns starts threads of its own, which end with its pipeline: a selection has eight, and starting and ending a
thread for each element cost it a tenth of its time. Here DoFns that ask for as many threads have the same ones. None waits in
such a thread for work that it gives to another (`in_threads`, which does, has its own).
"""

import functools

from beam_curate.transforms import side_by_side

slow_threads = side_by_side.Threads
quick_threads = functools.cache(slow_threads)


def quicken():
    """Has this process's pipelines use them."""
    side_by_side.Threads = quick_threads
