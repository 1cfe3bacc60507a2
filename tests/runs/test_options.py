"""The options of a run: one list of them, whoever asks for them."""

import dataclasses
import inspect
import os
import re
import subprocess
import sys
import typing

import pytest

import dagron
from dagron import CheckpointExecutor, ExecutionCallbacks, Flow, OptionError, Task
from dagron.runs.options import ExecutorOptions, Options
from dagron.runs.plan import plan_run

FIELDS = {field.name: field for field in dataclasses.fields(Options)}

FLAGS = {
    "fail_fast": "--fail-fast",
    "enable_tracing": "--trace",
    "max_workers": "--workers",
    "durability": "--durability",
    "pool": "--inline",
    "retries": "--retries",
    "retry_delay": "--retry-delay",
    "timeout": "--timeout",
    "memory_limit": "--memory-limit",
    "pin_cpus": "--pin-cpus",
    "kill_grace_seconds": "--kill-grace-seconds",
    "allow_untrusted": "--allow-untrusted",
    "progress": "--progress",
    "pass_output": "--pass-output",
    "max_tasks_per_worker": "--max-tasks-per-worker",
    "worker_init": "--worker-init",
    "keep": "--keep",
    "compression": "--compression",
}

WITHOUT_A_FLAG = {
    "callbacks": "functions",
    "retry_on": "classes; a Task of the job names them",
    "signing_key": "everybody could read it in the list of processes; DAGRON_SIGNING_KEY holds it",
}


class TestOneList:
    def test_each_is_a_parameter_of_the_executor_with_the_same_default(self):
        parameters = dict(inspect.signature(CheckpointExecutor).parameters)
        del parameters["dag"], parameters["checkpoint_dir"]
        assert list(parameters) == list(FIELDS)
        assert {name: p.default for name, p in parameters.items()} == {n: f.default for n, f in FIELDS.items()}

    def test_each_parameter_reaches_them(self, tmp_path):
        # What the executor stores is looked at, as some options show in what a run does only after a fault.
        values = {
            "callbacks": ExecutionCallbacks(), "fail_fast": False, "enable_tracing": True, "max_workers": 3,
            "durability": "process", "pool": "inline", "retries": 4, "retry_delay": 0.25, "retry_on": (OSError,),
            "timeout": 5.0, "memory_limit": "6 GB", "pin_cpus": False, "kill_grace_seconds": 7.0, "signing_key": b"8",
            "allow_untrusted": True, "progress": True, "pass_output": False, "max_tasks_per_worker": 9,
            "worker_init": print, "keep": False, "compression": None,
        }  # fmt: skip
        assert values.keys() == FIELDS.keys()
        executor = CheckpointExecutor(dagron.DAG([]), tmp_path, **values)
        assert executor._options == Options(**values)

    def test_each_is_a_key_of_what_a_flow_takes_and_of_the_same_type(self):
        namespace = vars(typing) | vars(dagron.runs.options)
        hints = typing.get_type_hints(ExecutorOptions, localns=namespace)
        assert list(hints) == list(FIELDS)
        assert hints == typing.get_type_hints(Options, localns=namespace)

    def test_each_has_a_flag_of_the_command_line_or_a_reason_for_none(self):
        command = [sys.executable, "-m", "dagron", "run", "--help"]
        environment = {**os.environ, "COLUMNS": "200", "PYTHONPATH": os.path.dirname(os.path.dirname(dagron.__file__))}
        help_of_run = subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout
        flags = set(re.findall(r"--[a-z-]+", help_of_run))
        assert set(FLAGS) | set(WITHOUT_A_FLAG) == set(FIELDS)
        assert not set(FLAGS) & set(WITHOUT_A_FLAG)
        assert set(FLAGS.values()) <= flags
        assert not {f"--{name.replace('_', '-')}" for name in WITHOUT_A_FLAG} & flags

    def test_each_is_explained_by_the_executor(self):
        args, *_ = re.split(r"\n(?:Attributes|Raises):", inspect.getdoc(CheckpointExecutor).split("Args:")[1])
        assert re.findall(r"^    (\w+):", args, re.MULTILINE) == ["dag", "checkpoint_dir", *FIELDS]


class TestOptions:
    @pytest.mark.parametrize("option", ["retries", "retry_delay", "retry_on", "kill_grace_seconds", "pin_cpus"])
    def test_none_is_no_value_of_what_has_a_default(self, option):
        # For a task it means that of the executor; there is nothing that it could mean here.
        with pytest.raises(OptionError, match=f"^{option}=None"):
            Options(**{option: None})

    def test_a_signing_key_is_not_shown(self):
        assert "secret" not in repr(Options(signing_key=b"secret"))

    def test_what_follows_from_the_machine_is_found_out_once(self, monkeypatch):
        monkeypatch.setenv("DAGRON_SIGNING_KEY", "first")
        options = Options()
        n_workers = options.n_workers
        monkeypatch.setenv("DAGRON_SIGNING_KEY", "second")
        monkeypatch.setattr("dagron.runs.options.available_cpus", lambda: [0] * (n_workers + 1))
        assert (options.key, options.n_workers) == (b"first", n_workers)

    @pytest.mark.parametrize("n", [1, 65, 100_000])
    def test_a_signing_key_has_any_length(self, monkeypatch, n):
        assert Options(signing_key=b"x" * n).key == b"x" * n
        monkeypatch.setenv("DAGRON_SIGNING_KEY", "x" * n)
        assert Options().key == b"x" * n


def test_the_options_of_a_task_are_listed_where_a_flow_takes_them():
    listed = inspect.getdoc(Flow.add).split("Keywords named like an option of `Task` (")[1].split(")")[0]
    assert re.findall(r"`(\w+)`", listed) == [field.name for field in dataclasses.fields(Task) if field.name != "fn"]


OF_THE_RUN = {"retries": 2, "retry_delay": 0.25, "timeout": 3.0, "memory_limit": "1 GB"}
OF_THE_TASK = {"retries": 0, "retry_delay": 0.0, "timeout": 5.0, "memory_limit": "2 GB"}


class TestWhichOptionsHoldForANode:
    """In the policy of the node, where an executor's limit that is not kept shows without a node that hits it."""

    def policy(self, task):
        policy = plan_run(dagron.DAG(["a"]), {"a": task}, Options(**OF_THE_RUN)).policies[0]
        return {"retries": policy.retries, "retry_delay": policy.retry_delay, "timeout": policy.timeout,
                "memory_limit": f"{policy.memory_limit // 10**9} GB"}  # fmt: skip

    def test_those_of_the_run_for_a_callable(self):
        assert self.policy(print) == OF_THE_RUN

    def test_those_of_the_run_for_a_task_that_does_not_say(self):
        assert self.policy(Task(print, priority=1)) == OF_THE_RUN

    def test_those_of_the_task(self):
        assert self.policy(Task(print, **OF_THE_TASK)) == OF_THE_TASK

    @pytest.mark.parametrize("option", OF_THE_RUN)
    def test_each_by_itself(self, option):
        task = Task(print, **{option: OF_THE_TASK[option]})
        assert self.policy(task) == {**OF_THE_RUN, option: OF_THE_TASK[option]}
