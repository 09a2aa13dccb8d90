"""Modules of others that load far more than the parts of them that are used.

They are made known to Python without being run: their submodules can be imported, and they run as soon as somebody asks for
something in them. So `import open_clip; open_clip.create_model(...)` works as ever, for a user's scorer too.
"""

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Mapping, Sequence
from importlib import _bootstrap
from typing import Any, Final

_IMPORT: Final[Any] = _bootstrap
"""Its locks are the same in Python 3.10 to 3.13; there is no public name for them."""
_RUNNING: Final = "__running__"


class _Deferred(types.ModuleType):
    """A module that has not run, or that runs now.

    It runs under the lock that Python's own import takes for it: that lock finds out where two threads wait for each other, each
    in the middle of a module that the other one needs. A lock of this project's own would let both wait for ever.
    """

    def __getattr__(self, name: str) -> Any:
        """Runs the module, and gives what was asked for."""
        if name == "__path__":  # asked for by each import from it; one that is a package has it already
            raise AttributeError(f"module {self.__name__!r} is not a package")
        part = sys.modules.get(f"{self.__name__}.{name}")
        if part is not None:
            return part  # another thread has imported it, and not come so far as to name it here
        lock = _IMPORT._ModuleLockManager(self.__name__)
        try:
            lock.__enter__()
        except _IMPORT._DeadlockError:
            # As `import` does then: what the other thread has made of the module so far must do.
            return types.ModuleType.__getattribute__(self, name)
        try:
            _run(self)
        finally:
            lock.__exit__(None, None, None)
        return types.ModuleType.__getattribute__(self, name)


def _run(module: types.ModuleType) -> None:
    """Runs a module, unless it has run or runs now: what it imports may ask for something in it."""
    own = vars(module)
    if type(module) is not _Deferred or _RUNNING in own:
        return
    for placed in own.pop("__placed__", ()):
        del own[placed]
    assert module.__spec__ is not None
    assert module.__spec__.loader is not None
    own[_RUNNING] = True
    try:
        module.__spec__.loader.exec_module(module)
    finally:
        del own[_RUNNING]
    object.__setattr__(module, "__class__", types.ModuleType)


def defer(*names: str) -> None:
    """Makes packages known without running them; one that is loaded already stays as it is.

    Import their submodules as `import package.part as part`: `from package import part` asks the package first, and so runs it.

    Args:
        names: The packages, each after the one that holds it.

    Raises:
        ModuleNotFoundError: There is none of that name.
    """
    for name in names:
        with _IMPORT._ModuleLockManager(name):
            if name not in sys.modules:
                _make_known(name)


def _make_known(name: str) -> None:
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    module = importlib.util.module_from_spec(spec)
    module.__class__ = _Deferred
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def defer_when_imported(functions: Mapping[str, Sequence[str]]) -> None:
    """Has modules not run when others import them; those that are loaded already stay as they are.

    `from module import *` takes nothing from such a module, and `from module import function` a stand-in that runs the module
    when it is called. Modules that are not installed are missing as ever.

    Args:
        functions: By the name of a module, its functions of which others take the stand-in.
    """
    left = {name: names for name, names in functions.items() if name not in sys.modules}
    if left:
        sys.meta_path.insert(0, _Finder(left))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds modules that are to be deferred, each once."""

    def __init__(self, left: dict[str, Sequence[str]]) -> None:
        self._left = left

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See importlib."""
        functions = self._left.pop(fullname, None)
        if functions is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, functions)
        return spec


class _Loader(importlib.abc.Loader):
    """Loads a module without running it."""

    def __init__(self, loader: importlib.abc.Loader, functions: Sequence[str]) -> None:
        self._loader = loader
        self._functions = functions

    def exec_module(self, module: types.ModuleType) -> None:
        """See importlib: leaves the module's own loader to run it later."""
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        placed = {name: functools.partial(_call, module, name) for name in self._functions}
        vars(module).update(placed, __all__=[], __placed__=["__all__", *placed])
        module.__class__ = _Deferred


def _call(module: types.ModuleType, name: str, *arguments: Any, **named: Any) -> Any:
    """Calls a function of a module, which runs if it has not yet."""
    if type(module) is _Deferred:
        _Deferred.__getattr__(module, "__doc__")
    return getattr(module, name)(*arguments, **named)
