"""Keywords that nobody takes: which option may have been meant, by its letters or as other libraries call it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

from dagron.errors import UnknownOptionError

__all__ = ["check_keywords", "meant_by", "refuses_unknown_options"]

P = ParamSpec("P")
R = TypeVar("R")

_ELSEWHERE = {
    "max_workers": (
        "n_jobs jobs njobs workers n_workers num_workers nworkers processes n_processes num_processes n_procs "
        "nproc nprocs cores n_cores num_cores ncores cpus n_cpus num_cpus threads n_threads concurrency "
        "parallel parallelism pool_size max_processes max_parallel"
    ),
    "checkpoint_dir": (
        "checkpoint checkpoints dir directory path folder location cache cache_dir cachedir memory output_dir "
        "workdir checkpoint_path"
    ),
    "resume": "restart reuse fresh overwrite force rerun cached",
    "retries": "max_retries n_retries num_retries retry tries n_tries max_tries attempts max_attempts n_attempts",
    "retry_delay": "delay backoff retry_wait wait retry_delay_seconds retry_backoff",
    "retry_on": "exceptions retry_exceptions retry_for on_exceptions",
    "timeout": "time_limit timeout_seconds max_time max_seconds walltime node_timeout task_timeout",
    "run_timeout": "total_timeout overall_timeout deadline timeout max_runtime",
    "memory_limit": "mem_limit max_memory max_mem mem ram memory memory_limit_bytes max_ram",
    "pool": "backend executor engine scheduler mode prefer",
    "progress": "verbose verbosity progress_bar show_progress progressbar bar tqdm",
    "worker_init": "initializer init setup init_worker worker_setup on_worker_start",
    "max_tasks_per_worker": "maxtasksperchild max_tasks_per_child max_calls worker_lifetime max_tasks",
    "fail_fast": ("failfast stop_on_error stop_on_failure raise_on_error on_error keep_going continue_on_error strict"),
    "enable_tracing": "trace tracing profile",
    "signing_key": "key secret",
    "callbacks": "callback hooks on_complete on_failure on_start listeners",
    "pass_output": "capture_output stdout show_output quiet capture output",
    "durability": "fsync sync durable",
    "cancel_event": "cancel stop_event event cancellation",
    "allow_untrusted": "trust trusted unsafe",
    "pin_cpus": "affinity cpu_affinity pin",
    "kill_grace_seconds": "grace grace_period kill_grace kill_timeout",
    "exclusive": "alone exclusively",
    "priority": "prio weight",
}
"""Option -> what joblib, concurrent.futures, multiprocessing, dask, Ray, Prefect, luigi, make and people call it."""


def meant_by(keyword: str, options: Iterable[str]) -> list[str]:
    """Return which of these options may be meant by a keyword that is none of them, the likeliest first."""
    import difflib

    names = list(options)
    word = keyword.lower().strip("_").replace("-", "_")
    known = [name for name in names if word in _ELSEWHERE.get(name, "").split()]
    return known or difflib.get_close_matches(word, names, n=1, cutoff=0.7)


def check_keywords(given: Iterable[str], options: Iterable[str], taker: str) -> None:
    """Check that each keyword is an option.

    Args:
        given: The keywords.
        options: The options that there are.
        taker: What was given them, for the error.

    Raises:
        UnknownOptionError: One is none.
    """
    known = dict.fromkeys(options)
    for keyword in given:
        if keyword not in known:
            raise UnknownOptionError(keyword, taker, meant_by(keyword, known))


def refuses_unknown_options(taker: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a method say which option may have been meant by a keyword that it does not take.

    Args:
        taker: How the method is called in the error.
    """

    def made(function: Callable[P, R]) -> Callable[P, R]:
        code = function.__code__
        options = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            check_keywords(kwargs, options, taker)
            return function(*args, **kwargs)

        return checked

    return made
