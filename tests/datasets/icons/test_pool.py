"""Processes that draw: answers in order, a limit of time for each item, and one line for a process that dies."""

import os
import signal
import time
from typing import NamedTuple

import pytest

from clip_jax.datasets.icons import pool as module
from clip_jax.datasets.icons.pool import Pool

from ...user_errors import raises_user_error


class Item(NamedTuple):
    number: int
    name: str = ""


def double(item):
    return 2 * item.number


def sleep(item):
    time.sleep(600 if item.number == 3 else 0)
    return item.number


def die(item):
    if item.number == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    return item.number


def fill(item):
    return len(bytearray(item.number)) if item.number < 1 << 20 else len(bytearray(4 * module.MAX_GROWTH))


@pytest.fixture
def pool():
    made = Pool(2)
    yield made
    made.close()


def test_pool_imap_returns_results_in_order(pool):
    tasks = [(double, [Item(10 * i + j) for j in range(i % 4)]) for i in range(12)]
    assert list(pool.imap(tasks)) == [[2 * item.number for item in items] for _, items in tasks]
    assert list(pool.imap([])) == []


def test_pool_imap_item_over_the_time_limit_is_skipped(pool, monkeypatch):
    monkeypatch.setattr(module, "LIMIT_S", 5.0)
    tasks = [(sleep, [Item(i) for i in range(2, 6)]), (double, [Item(7)])]
    assert list(pool.imap(tasks)) == [[2, "slow", 4, 5], [14]]


@pytest.mark.parametrize("draw", [die, fill])
def test_pool_imap_dead_process_is_one_line(pool, draw):
    items = [Item(1), Item(2), Item(3 if draw is die else 1 << 20, "set/evil"), Item(4)]
    with raises_user_error(field="set/evil"):
        list(pool.imap([(draw, items)]))
    pool.close()
    assert not module.multiprocessing.active_children()
