"""When Python looks for garbage: seldom while a command loads, and not among what it has loaded.

Loading torch and Beam makes 600,000 objects that stay. Python looks for garbage after each 700 new ones, and now and then among
all there are, which took 0.55 s of the 2.2 s of these two imports. Only the standard library is imported.
"""

import gc
from typing import Final

_WHILE_LOADING: Final = 100_000
"""Objects between two looks: so few looks that they cost nothing, and so many that what is garbage cannot pile up."""
_usual: list[tuple[int, int, int]] = []


def look_seldom() -> None:
    """Has Python look for garbage seldom, until `look_as_usual`. For a process that a command has for itself."""
    _usual.append(gc.get_threshold())
    gc.set_threshold(_WHILE_LOADING)


def look_as_usual() -> None:
    """Ends what `look_seldom` began, if it did; what is there by now is not looked at any more."""
    if _usual:
        gc.freeze()
        gc.set_threshold(*_usual.pop())
