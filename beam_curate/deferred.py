"""Packages of others whose `__init__` loads far more than the parts of them that are used.

They are made known to Python without running their `__init__`: their submodules can be imported, and the `__init__` runs as soon
as somebody asks for something in it. So `import open_clip; open_clip.create_model(...)` works as ever, for a user's scorer too.
"""

import importlib
import importlib.util
import sys
import threading
import types
from typing import Any, Final


class _Deferred(types.ModuleType):
    """A package whose `__init__` has not run."""

    _lock: Final = threading.RLock()

    def __getattr__(self, name: str) -> Any:
        """Runs the `__init__`, and gives what was asked for."""
        with _Deferred._lock:
            if type(self) is _Deferred:
                object.__setattr__(self, "__class__", types.ModuleType)
                assert self.__spec__ is not None
                assert self.__spec__.loader is not None
                self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def defer(*names: str) -> None:
    """Makes packages known without running them; one that is loaded already stays as it is.

    Import their submodules as `import package.part as part`: `from package import part` asks the package first, and so runs it.

    Args:
        names: The packages, each after the one that holds it.

    Raises:
        ModuleNotFoundError: There is none of that name.
    """
    for name in names:
        if name in sys.modules:
            continue
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        module = importlib.util.module_from_spec(spec)
        module.__class__ = _Deferred
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def defer_function(module: str, name: str) -> None:
    """Lets `from module import name` pass without loading the module: the function loads it when it is called.

    Nothing is done for a module that is loaded already.

    Args:
        module: The module, whose parent package may be loaded.
        name: A function of it.

    Raises:
        ModuleNotFoundError: There is no such module.
    """
    if module in sys.modules:
        return
    parent = module.rpartition(".")[0]
    if parent:
        importlib.import_module(parent)
    defer(module)
    deferred = sys.modules[module]

    def call(*arguments: Any, **named: Any) -> Any:
        with _Deferred._lock:
            if deferred.__dict__.get(name) is call:  # else the module's own stands there
                delattr(deferred, name)
            own = getattr(deferred, name)
        return own(*arguments, **named)

    setattr(deferred, name, call)
