"""Functions of modules that are loaded when they are called."""

import subprocess
import sys

CALLED = """
import sys
from beam_curate.deferred import defer_function
defer_function("scipy.optimize", "nnls")
from scipy.optimize import nnls
assert "scipy.optimize._nnls" not in sys.modules
solution, rest = nnls([[2.0, 0.0], [0.0, 4.0]], [2.0, 2.0])
print(list(map(float, solution)), float(rest), "scipy.optimize._nnls" in sys.modules)
import scipy.optimize
assert scipy.optimize.nnls is not nnls
assert list(nnls([[1.0]], [3.0])[0]) == [3.0]
assert scipy.optimize.nnls.__module__.startswith("scipy")
defer_function("scipy.optimize", "nnls")
assert scipy.optimize.nnls is not nnls
"""


def test_a_deferred_function_loads_its_module_when_it_is_called():
    done = subprocess.run([sys.executable, "-c", CALLED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[1.0, 0.5] 0.0 True\n"
