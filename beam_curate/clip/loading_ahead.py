"""A model that one thread loads while another makes the pipeline; the first that asks for it gets it.

A weights file is read and converted, and a batch computed, without Python's lock, and a pipeline is made under it, so on two
cores the first image of a run in process waits for the longer of the two alone.
"""

import functools
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from beam_curate.clip.visual_tower import VisualTower

_lock: Final = threading.Lock()
_loading: Final[dict[str, "Future[VisualTower]"]] = {}


def _key(load: "functools.partial[VisualTower]") -> str:
    return repr((load.func.__qualname__, load.args, sorted(load.keywords.items())))


def _looked_at(load: "functools.partial[VisualTower]", places: int) -> "VisualTower":
    tower = load()
    tower.look(places)
    return tower


def load_ahead(load: "functools.partial[VisualTower]", places: int) -> None:
    """Starts to load a model in a thread of this process, and to look at it, in place of one that nobody took.

    Args:
        load: A function of a module with its arguments, which tell one model from another by their `repr`.
        places: Images in a call of the model.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="load-ahead")
    with _lock:
        _loading.clear()
        _loading[_key(load)] = pool.submit(_looked_at, load, places)
    pool.shutdown(wait=False)


def loaded(load: "functools.partial[VisualTower]") -> "VisualTower":
    """Gives the model that was loaded ahead by the same call, once, or loads it.

    Raises:
        Exception: What loading raised.
    """
    with _lock:
        ahead = _loading.pop(_key(load), None)
    return load() if ahead is None else ahead.result()
