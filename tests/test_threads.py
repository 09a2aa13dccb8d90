import os
import threading

import pytest

from beam_curate import threads
from beam_curate.threads import Queue, Threads, default_threads, in_threads, usable_cores


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 6),
        ({"cpu.max": "max 100000\n"}, 6),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "900000 100000\n"}, 6),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 6),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "200000\n"}, 6),
    ],
)
def test_cores_are_those_of_the_process_not_of_the_machine(files, cores, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert usable_cores(str(tmp_path)) == cores


def test_cores_of_a_bound_process_are_those_it_is_bound_to():
    bound = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(bound)})
    try:
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, bound)


def test_two_threads_a_core_and_4_to_16(monkeypatch):
    for cores, number in ((1, 4), (3, 6), (8, 16), (200, 16)):
        monkeypatch.setattr(threads, "usable_cores", lambda cores=cores: cores)
        assert default_threads() == number


def test_results_come_in_order_and_few_are_ahead():
    started = []

    def work(number):
        started.append(number)
        return number * number

    results = in_threads(work, range(100))
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert len(started) <= 5 + 16 + 1
    assert list(results) == [number * number for number in range(5, 100)]


def test_an_error_comes_to_the_one_who_waits_and_the_rest_is_not_started():
    fails, goes_on, ran = threading.Event(), threading.Event(), []

    def fail():
        fails.wait()
        raise ValueError("no")

    def work(number):
        goes_on.wait()
        ran.append(number)

    threads, queue = Threads(1), Queue()
    queue.append(threads.submit(fail))
    for number in range(5):
        queue.append(threads.submit(lambda number=number: work(number)))
    fails.set()
    threading.Timer(0.05, goes_on.set).start()
    with pytest.raises(ValueError, match="no"):
        queue.take()
    before = list(ran)
    threads.submit(lambda: None).result()
    assert ran == before  # what was begun is over, and the rest never begins
    assert ran in ([], [0])


def test_what_is_held_is_bounded_unless_one_alone_is_larger():
    threads, held, most = Threads(8, held_bytes=10), [0], [0]
    lock = threading.Lock()

    def work(size):
        with threads.holding(size):
            with lock:
                held[0] += size
                most[0] = max(most[0], held[0])
            threading.Event().wait(0.002)
            with lock:
                held[0] -= size

    for future in [threads.submit(lambda size=size: work(size)) for size in [4, 5, 0, 6, 3, 2, 9, 1] * 5]:
        future.result()
    assert 5 < most[0] <= 10
    with threads.holding(50):
        assert most[0] <= 10
    threads.submit(lambda: work(50)).result()
    assert most[0] == 50
