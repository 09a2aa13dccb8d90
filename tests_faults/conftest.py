"""The fixtures of the other tests, and Ctrl-C as a terminal has it."""

import signal

from tests.conftest import assets as assets

# A job in the background ignores it, and so would the commands that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
