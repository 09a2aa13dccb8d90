"""When Python looks for garbage in a process of tests: not while tests are collected, and then not among what that has loaded.

That loads 700,000 objects that stay, and a look among all of them takes a third of a second, which was a fifth of a test's time.
The commands' own processes do the same: see beam_curate/commands/garbage.py.
"""

import atexit
import gc

OBJECTS_BETWEEN_LOOKS = 10_000
"""More than Python's 700 to 2000: a pipeline of a test makes a hundred thousand objects, most of which stay until its end."""


def look_no_more():
    """Until `look_seldom`."""
    gc.disable()


def look_seldom():
    """From now on, among what is made from now on."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # then libraries count what is left of their objects; pytest looks before that
    gc.set_threshold(OBJECTS_BETWEEN_LOOKS)
    gc.enable()
