"""Proof that the tests can fail: take one protection away, one line at a time, and run the test that should notice.

`python tests/mutations.py [WORD ...]` does so for every mutation, or for those with one of the words in their promise,
and prints a line for each; its exit code is 1 if a test passed that should have failed. Takes minutes. With `--turn N`
it tries five, others for each N, until all have had their turn. The suite itself only checks that every line that is to
be taken away is still there (`test_mutations.py`).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "dagron"

_LIMIT_SECONDS = 300
"""For the test of a mutation: more than what pytest gives to a test that hangs."""


class Mutation(NamedTuple):
    """One protection, how it is taken away, and who should notice.

    Attributes:
        promise: The row of the README's table of guarantees.
        module: The file below `src/dagron`.
        old: The text that protects; it stands there once.
        new: What stands there instead.
        test: What pytest is asked to run.
    """

    promise: str
    module: str
    old: str
    new: str
    test: str


MUTATIONS = [
    Mutation(
        "bad input",
        "tasks/handle.py",
        "        def __format__(self, spec: str) -> NoReturn:\n",
        "        def no_format(self, spec: str) -> NoReturn:\n",
        "tests/tasks/test_handle.py -k what_needs",
    ),
    Mutation(
        "bad input",
        "tasks/meant.py",
        "        if keyword not in known:\n",
        "        if False:\n",
        "tests/tasks/test_meant.py -k other_libraries",
    ),
    Mutation(
        "bad input",
        "executor.py",
        "            result._unseen = note_unseen(",
        "            note_unseen(",
        "tests/results/test_ignored.py -k one_that_has",
    ),
    Mutation(
        "one death",
        "runs/coordinator.py",
        "            outcome = with_source_of_fault(outcome)\n",
        "",
        "tests/results/test_sources.py -k explanations",
    ),
    Mutation(
        "no wrong value",
        "cli/replay.py",
        "    commit = ledger.completed_commit(name)\n    if commit is None:\n        _compare",
        "    commit = ledger.completed_commit(name) or ledger.stale.get(name)\n"
        "    if commit is None:\n        _compare",
        "tests/cli/test_debug.py -k no_longer_applies",
    ),
    Mutation(
        "one death",
        "runs/retries.py",
        "deque(maxlen=_LAST)",
        "deque()",
        "tests/runs/test_retries.py -k first_and_the_last",
    ),
    Mutation(
        "one death",
        "checkpoint/reading/ledger.py",
        "                if attempt <= 1:\n                    self.retried.pop(name, None)\n",
        "",
        "tests/runs/test_retries.py -k begins_anew",
    ),
    Mutation(
        "one death",
        "engines/local/condition.py",
        "        mask = _umask(self._mask)\n",
        "        mask = self._mask\n",
        "tests/promises/test_one_death_one_attempt_damage.py -k next_node_finds",
    ),
    Mutation(
        "one death",
        "engines/local/condition.py",
        "        self._space.update(self._meant)\n",
        "",
        "tests/promises/test_one_death_one_attempt_damage.py -k right_results",
    ),
    Mutation(
        "one death",
        "engines/local/worker.py",
        "        if worker.condition.is_intact(worker.channel.fd):\n",
        "        if True:\n",
        "tests/promises/test_one_death_one_attempt_damage.py -k number_of_one_of_ours",
    ),
    Mutation(
        "one death",
        "engines/local/worker.py",
        "            suspects.pop()\n        else:\n",
        "            pass\n        if True:\n",
        "tests/promises/test_one_death_one_attempt_damage.py -k clean_process",
    ),
    Mutation(
        "one death",
        "runs/blame.py",
        "        if error.errno in _OF_THE_DISK or",
        "        if True or error.errno in _OF_THE_DISK or",
        "tests/promises/test_one_death_one_attempt_damage.py -k fails_alone",
    ),
    Mutation(
        "one death",
        "runs/blame.py",
        "self._store.directory.try_file(error.n_bytes) is not None",
        "False",
        "tests/promises/test_a_disk_that_refuses.py -k limit_that_a_large_result",
    ),
    Mutation(
        "one death",
        "engines/local/slot.py",
        "            self.allowance.end()\n",
        "",
        "tests/promises/test_one_death_one_attempt_damage.py -k stays",
    ),
    Mutation(
        "redone",
        "checkpoint/files/scratch.py",
        "                if other != inputs:\n",
        "                if False:\n",
        "tests/engines/test_current.py -k from_another_result",
    ),
    Mutation(
        "redone",
        "checkpoint/writing/store.py",
        "        self.scratches.keep(() if is_fresh else unfinished)\n",
        "        self.scratches.keep(unfinished)\n",
        "tests/engines/test_current.py -k fresh_run_begins_without",
    ),
    Mutation(
        "redone",
        "checkpoint/writing/scratches.py",
        "            self._remove(found - kept)\n",
        "",
        "tests/engines/test_current.py -k left_behind_a_commit",
    ),
    Mutation(
        "redone",
        "checkpoint/files/scratch.py",
        "            if not stat.S_ISDIR(os.lstat(path).st_mode):\n                raise\n",
        "            pass\n",
        "tests/engines/test_current.py -k no_link_is_followed",
    ),
    Mutation(
        "redone",
        "runs/coordinator.py",
        "            self._store.scratches.note(self._dag.name_of(lost.running))\n",
        "",
        "tests/engines/test_current.py -k goes_with_the_commit",
    ),
    Mutation(
        "death",
        "crossing/exceptions.py",
        '    so_far(name, message := _plain_message(error), f"{name}: {message}\\n")\n',
        "",
        "tests/promises/test_one_death_one_attempt_odd_exceptions.py -k before_each_step",
    ),
    Mutation(
        "death",
        "engines/local/board.py",
        "        self._memory[_TELLING_AT] = 1\n",
        "        pass\n",
        "tests/promises/test_one_death_one_attempt_odd_exceptions.py -k ended_it",
    ),
    Mutation(
        "death",
        "engines/local/worker.py",
        "                self.end_if_silent(self.setup.telling_seconds, exit=True, file=self.streams[1])\n",
        "                pass\n",
        "tests/promises/test_one_death_one_attempt_odd_exceptions.py -k without_a_timeout",
    ),
    Mutation(
        "death",
        "shown.py",
        "return str.__str__(str(error))",
        "return str(error)",
        "tests/promises/test_one_death_one_attempt_odd_exceptions.py -k only_plain_text",
    ),
    Mutation(
        "one death",
        "engines/attempt.py",
        "    NotLoadableError: OutcomeKind.UNLOADABLE_INPUT,\n",
        "",
        "tests/crossing/test_loading.py -k names_its_parent",
    ),
    Mutation(
        "one death",
        "engines/attempt.py",
        "_is_one_of(cause, (OSError,)) and _is_one_of(cause, retry_on)",
        "isinstance(cause, retry_on)",
        "tests/crossing/test_loading.py -k spends_no_retries",
    ),
    Mutation(
        "input",
        "cli/place.py",
        "return self.path",
        "return self.shown",
        "tests/cli/test_places.py -k changes_the_directory",
    ),
    Mutation(
        "input",
        "cli/program.py",
        "        return shlex.quote(word)\n",
        "        return word\n",
        "tests/cli/test_places.py -k no_word",
    ),
    Mutation(
        "value",
        "runs/prepare.py",
        "        look(store.ledger)\n",
        "        pass\n",
        "tests/cli/test_identity.py -k same_directory",
    ),
    Mutation(
        "value",
        "cli/origin.py",
        "        return any(map(is_file, self._places(theirs)))\n",
        "        return False\n",
        "tests/cli/test_identity.py -k same_directory",
    ),
    Mutation(
        "input",
        "cli/load.py",
        "    _refuse_further(module, source, reached)\n",
        "",
        "tests/cli/test_loading.py -k not_clear",
    ),
    Mutation(
        "input",
        "cli/program.py",
        "if _IN_ERRORS in text else text",
        "if False else text",
        "tests/crossing/test_loading.py -k as_the_program_was",
    ),
    Mutation(
        "input",
        "cli/running.py",
        "            _say_if_renamed(job, request)\n",
        "            pass\n",
        "tests/cli/test_identity.py -k under_its_old_name",
    ),
    Mutation(
        "input",
        "cli/running.py",
        "if request.is_default_dir and job.checkpoint_dir:",
        "if False:",
        "tests/cli/test_own_place.py -k puts_it",
    ),
    Mutation(
        "input",
        "cli/own_place.py",
        "known |= dict.fromkeys(stored)",
        "pass",
        "tests/cli/test_own_place.py -k not_guessed",
    ),
    Mutation(
        "input",
        "flow.py",
        "        begin_no_run_while_loading(self.dag, self._tasks, checkpoint_dir)\n        executor = ",
        "        executor = ",
        "tests/cli/test_loading.py -k would_be_refused",
    ),
    Mutation(
        "input",
        "executor.py",
        "durable, file_mode=mode, compresses",
        "durable, compresses",
        "tests/promises/test_only_what_you_trust.py -k a_task_has_set_the_umask",
    ),
    Mutation(
        "trust",
        "checkpoint/files/opened.py",
        "            os.fchmod(self._fd, mode)\n",
        "            pass\n",
        "tests/checkpoint/test_files.py -k its_mode_whatever",
    ),
    # --- nothing recorded is ever redone
    Mutation(
        "redone",
        "runs/restore.py",
        "plan.restored = [i for i, name in enumerate(dag.nodes) if name in commits or name in dropped]",
        "plan.restored = [i for i, name in enumerate(dag.nodes) if name in commits or name in dropped][1:]",
        "tests/promises/test_nothing_is_redone.py -k thirty_kills",
    ),
    Mutation(
        "redone",
        "checkpoint/writing/store.py",
        "            if fresh or old is None or old.cleared:\n",
        "            if True:\n",
        "tests/promises/test_nothing_is_redone.py -k thirty_kills",
    ),
    Mutation(
        "redone",
        "checkpoint/writing/beginning.py",
        "        recovery.look(old)\n",
        "        recovery.look(old)\n        old.commits.clear()\n",
        "tests/checkpoint/test_store.py -k TestReopening",
    ),
    # --- any instant is a legal place to die
    Mutation(
        "die",
        "checkpoint/writing/committing.py",
        "        records = journal.append(said)\n        journal.sync()\n",
        "        records = journal.append(said)\n",
        "tests/promises/test_any_instant_power_loss.py",
    ),
    Mutation(
        "die",
        "runs/interrupts.py",
        "        self._noted = number\n",
        "        self._previous[number](number, frame)\n",
        "tests/promises/test_any_instant_interrupts.py -k any_write",
    ),
    # --- no stale child
    Mutation(
        "stale",
        "runs/prepare.py",
        " or begun.structure != structure.hex()",
        "",
        "tests/promises/test_no_stale_child.py -k nothing_was_restored",
    ),
    Mutation(
        "stale",
        "runs/state.py",
        "            if self._held.pop(child, None) is not None or child in self._gone\n",
        "            if self._held.get(child) is not None or child in self._gone\n",
        "tests/runs/test_state.py tests/promises/test_no_stale_child.py",
    ),
    # --- one death, one attempt
    Mutation(
        "death",
        "runs/state.py",
        "kill.end if kill.node == node else End.PUT_BACK",
        "kill.end",
        "tests/runs/test_coordinator.py -k has_no_failure",
    ),
    Mutation(
        "death",
        "runs/state.py",
        "                if self._started:\n",
        "                if False:\n",
        "tests/runs/test_state.py -k starts_once",
    ),
    Mutation(
        "death",
        "engines/local/pool.py",
        "        return [] if lost is None else [lost]\n",
        "        self._take_all(self._poll.poll(0), more := [])\n        return [*more, *([lost] if lost else [])]\n",
        "tests/engines/test_engines.py -k told_alone",
    ),
    Mutation(
        "death",
        "engines/local/worker.py",
        "board.attempt_started(attempt.node, began, stdout_from, stderr_from, rss_before)",
        "board.attempt_started(attempts[0][0], began, stdout_from, stderr_from, rss_before)",
        "tests/engines/test_engines.py -k death_is_of_its_attempt",
    ),
    Mutation(
        "death",
        "engines/local/worker.py",
        "board.attempt_started(attempt.node, began, stdout_from, stderr_from, rss_before)",
        "board.attempt_started(attempt.node, began, 0, 0, rss_before)",
        "tests/engines/test_capture.py -k last_lines_that_it_wrote",
    ),
    Mutation(
        "death",
        "engines/local/slot.py",
        "        self.generation += 1  # its end is no news\n",
        "        pass\n",
        "tests/engines/test_engines.py -k TestReplacedWorkers",
    ),
    Mutation(
        "death",
        "engines/local/slot.py",
        "        unstarted += [attempt.node for attempt in self.held]\n",
        "        pass\n",
        "tests/engines/test_engines.py -k waits_for_the_next_worker",
    ),
    Mutation(
        "death",
        "engines/local/pool.py",
        "        if slot.board.in_init_since is not None and exit_code is not None and not slot.kill_requested:\n",
        "        if False:\n",
        "tests/engines/test_engines.py -k TestInit",
    ),
    Mutation(
        "death",
        "engines/local/first_call.py",
        "    board.init_started(time.monotonic())\n",
        "    pass\n",
        "tests/engines/test_engines.py -k ends_its_worker",
    ),
    Mutation(
        "stale",
        "results/status.py",
        "if found[name] in _WITHOUT_RESULT and name not in others:",
        "if found[name] in _WITHOUT_RESULT:",
        "tests/results/test_statuses.py -k not_reached_when",
    ),
    Mutation(
        "stale",
        "results/status.py",
        "if found[name] in _WITHOUT_RESULT and name not in others:",
        "if found[name] is NodeStatus.PENDING and name not in others:",
        "tests/results/test_statuses.py -k an_older_result",
    ),
    # --- limits
    Mutation(
        "limits",
        "engines/local/slot.py",
        "        attempts = attempts[: self.allowance.take(len(attempts))]\n",
        "        self.allowance.take(len(attempts))\n",
        "tests/engines/test_engines.py -k more_attempts_than_it_may",
    ),
    Mutation(
        "limits",
        "runs/dispatch.py",
        "policy.memory_limit is not None and event.memory_bytes > policy.memory_limit",
        "False",
        "tests/runs/test_state.py -k TestMemory",
    ),
    Mutation(
        "limits",
        "engines/local/processes.py",
        "    return sum(_bytes_of(process, shared=False) for process in processes)\n",
        "    return resident\n",
        "tests/promises/test_bounded_memory.py -k share",
    ),
    Mutation(
        "limits",
        "runs/dispatch.py",
        "policy.timeout is not None and event.seconds >= policy.timeout",
        "False",
        "tests/runs/test_state.py -k TestTimeouts",
    ),
    Mutation(
        "limits",
        "engines/local/slot.py",
        "        self._n_returned += 1\n",
        "        pass\n",
        "tests/engines/test_engines.py -k by_itself_when",
    ),
    # --- nothing outlives the coordinator
    Mutation(
        "outlives",
        "engines/local/server.py",
        "            self.kill_everything()\n",
        "            pass\n",
        "tests/engines/test_workers.py -k two_seconds",
    ),
    Mutation(
        "outlives",
        "engines/local/server.py",
        "    _prctl(_PR_SET_CHILD_SUBREAPER, 1)\n    with socket",
        "    with socket",
        "tests/promises/test_nothing_is_redone.py -k thirty_kills",
    ),
    Mutation(
        "outlives",
        "engines/local/leftovers.py",
        "processes.get(pid) == created",
        "pid in processes",
        "tests/promises/test_nothing_outlives_leftovers.py -k another_process",
    ),
    Mutation(
        "outlives",
        "runs/coordinator.py",
        "                    self._store.note_processes(processes, namespace)\n",
        "                    pass\n",
        "tests/promises/test_nothing_outlives_leftovers.py -k whatever_comes_next",
    ),
    Mutation(
        "outlives",
        "runs/interrupts.py",
        "                    self.on_force()\n",
        "                    pass\n",
        "tests/promises/test_limits_and_stops.py -k cuts_every_close",
    ),
    # --- bounded memory
    Mutation(
        "memory",
        "checkpoint/format/journal.py",
        "            if body_size > _WINDOW and not whole_at(offset, body_size):\n",
        "            if False:\n",
        "tests/promises/test_no_wrong_value_forged.py -k takes_no_memory",
    ),
    Mutation(
        "memory",
        "checkpoint/reading/damaged.py",
        "            if file.size > _META_MAX_BYTES:\n",
        "            if False:\n",
        "tests/promises/test_no_wrong_value_forged.py -k takes_no_memory",
    ),
    # --- damage is an error of ours
    Mutation(
        "damage",
        "checkpoint/reading/ledger.py",
        "        if not _FIRST_TIME <= at < _LAST_TIME:\n",
        "        if False:\n",
        "tests/promises/test_no_wrong_value_forged.py -k absurd",
    ),
    Mutation(
        "damage",
        "checkpoint/reading/damaged.py",
        "LookupError, TypeError, AttributeError, RecursionError):\n",
        "LookupError, TypeError, AttributeError):\n",
        "tests/promises/test_no_wrong_value_forged.py -k say_nothing",
    ),
    Mutation(
        "damage",
        "runs/restore.py",
        " or any(name not in dag for name in commit.without):\n",
        ":\n",
        "tests/promises/test_no_wrong_value_forged.py -k absurd",
    ),
    Mutation(
        "memory",
        "checkpoint/blobs.py",
        "INLINE_MAX_BYTES = 16 * 1024\n",
        "INLINE_MAX_BYTES = 2**40\n",
        "tests/promises/test_bounded_memory.py -k thirty",
    ),
    # --- a pruning drops nothing that a resume goes by
    Mutation(
        "stale",
        "checkpoint/writing/pruning.py",
        "commit._replace(since=self._number(commit.since))",
        "commit",
        "tests/checkpoint/test_pruning.py -k all_that_is_said",
    ),
    Mutation(
        "nothing",
        "checkpoint/writing/pruning.py",
        "            structure=ledger.structure,\n",
        "",
        "tests/checkpoint/test_pruning.py -k all_that_is_said",
    ),
    Mutation(
        "nothing",
        "checkpoint/writing/pruning.py",
        "            definitions=ledger.definitions,\n",
        "",
        "tests/checkpoint/test_pruning.py -k the_job_the_definitions",
    ),
    Mutation(
        "nothing",
        "checkpoint/writing/pruning.py",
        "if is_temporary(name)} - named",
        "if is_temporary(name)}",
        "tests/checkpoint/test_pruning.py -k rename_was_cut_short",
    ),
    Mutation(
        "deletes",
        "checkpoint/writing/pruning.py",
        "                journal.say(self._said(()))\n",
        "                pass\n",
        "tests/checkpoint/test_pruning.py -k in_the_place_of_a_file",
    ),
    Mutation(
        "deletes",
        "checkpoint/writing/pruning.py",
        "        yield self._said(self._dropped)\n",
        "        yield self._said(())\n",
        "tests/checkpoint/test_store.py -k TestDyingAtEverySystemCall",
    ),
    Mutation(
        "wrong value",
        "checkpoint/writing/pruning.py",
        "        if ledger.damage:\n",
        "        if False:\n",
        "tests/checkpoint/test_pruning.py -k damaged_journal",
    ),
    Mutation(
        "writer",
        "checkpoint/writing/pruning.py",
        "        checkpoint_id = os.urandom(16)",
        "        checkpoint_id = self._ledger.checkpoint_id",
        "tests/checkpoint/test_pruning.py -k reads_along",
    ),
    Mutation(
        "instant",
        "checkpoint/writing/pruning.py",
        "self._journal(checkpoint_id), durable=durable)",
        "self._journal(checkpoint_id), durable=False)",
        "tests/promises/test_any_instant_power_loss.py -k pruning",
    ),
    # --- one writer
    Mutation(
        "writer",
        "checkpoint/files/locks.py",
        "                return self._take_lock_of_machine()\n",
        "                return True\n",
        "tests/promises/test_one_writer.py -k one_machine_keeps",
    ),
    Mutation(
        "writer",
        "checkpoint/writing/hold.py",
        "        if not taken:\n",
        "        if False:\n",
        "tests/checkpoint/test_store.py -k TestOneWriter",
    ),
    # --- a disk that refuses costs nothing else
    Mutation(
        "disk",
        "checkpoint/writing/store.py",
        "        return CheckpointGoneError(path, gone) if gone else CommitError(path, reason)\n",
        "        return CommitError(path, reason)\n",
        "tests/promises/test_a_disk_that_refuses.py -k finds_no_place",
    ),
    Mutation(
        "limits",
        "runs/coordinator.py",
        "            self._carry_out(self._cancelled(now))  # before",
        "            # before",
        "tests/promises/test_limits_and_stops.py -k before_anything_has_begun",
    ),
    Mutation(
        "disk",
        "checkpoint/writing/clearing.py",
        "                if not _take_back(directory, ledger, durable=durable):\n",
        "                if False:\n",
        "tests/promises/test_a_disk_that_refuses.py -k taken_back",
    ),
    Mutation(
        "disk",
        "checkpoint/writing/clearing.py",
        "    return _CLEARED if ledger is None or ledger.cleared else _AS_IT_WAS\n",
        "    return _AS_IT_WAS\n",
        "tests/promises/test_a_disk_that_refuses.py -k what_it_has_left",
    ),
    Mutation(
        "disk",
        "checkpoint/files/locks.py",
        "            if not taken:\n",
        "            if False:\n",
        "tests/promises/test_a_disk_that_refuses.py -k leaves_none_behind",
    ),
    Mutation(
        "disk",
        "checkpoint/writing/claim.py",
        "    except OSError as error:\n        where",
        "    except ZeroDivisionError as error:\n        where",
        "tests/promises/test_a_disk_that_refuses_looks.py -k names_it",
    ),
    # --- it deletes only what it wrote
    Mutation(
        "deletes",
        "checkpoint/writing/claim.py",
        "        if foreign:\n",
        "        if False:\n",
        "tests/checkpoint/test_store.py -k TestRefusals",
    ),
    # --- bad input is an error before anything runs
    Mutation(
        "input",
        "tasks/arguments.py",
        '            _refuse_in(value, "in a set")\n',
        "",
        "tests/test_flow.py -k test_it_is_refused_where",
    ),
    Mutation(
        "input",
        "tasks/arguments.py",
        "            if not value.belongs_to(self._owner):\n",
        "            if False:\n",
        "tests/test_flow.py -k test_one_of_another_flow",
    ),
    Mutation(
        "input",
        "tasks/arguments.py",
        "            return self._copied(value, self._items(value, parents), holed_since=before)\n",
        "            return value if self._items(value, parents) and self._n_holes == before else self._copied(\n"
        "                value, self._items(value, parents), holed_since=before\n"
        "            )\n",
        "tests/test_flow.py -k test_containers_as_they_are_then",
    ),
    Mutation(
        "input",
        "flow.py",
        "            if found is not None and found.completed_nodes:\n",
        "            if False:\n",
        "tests/test_flow.py -k test_without_a_word",
    ),
    Mutation(
        "input",
        "tasks/names.py",
        '    if " at 0x" in name and _ADDRESS.search(name):\n',
        "    if False:\n",
        "tests/test_flow.py -k test_names_that_show_addresses",
    ),
    Mutation(
        "value",
        "script.py",
        "(parent and path is None) or _is_of_extensions(module)",
        "parent and path is None",
        "tests/crossing/test_values.py -k kinds_are_the_same",
    ),
    Mutation(
        "value",
        "crossing/definitions.py",
        "return (operator.getitem, (cls, obj._name_)) if obj._name_ in cls.__members__ else NotImplemented",
        "return NotImplemented",
        "tests/crossing/test_values.py -k kinds_are_the_same",
    ),
    Mutation(
        "value",
        "crossing/names.py",
        "type(found) is types.MethodType and found.__func__ is obj",
        "False",
        "tests/crossing/test_values.py -k kinds_are_the_same",
    ),
    Mutation(
        "value",
        "crossing/script_modules.py",
        "        base.register(cls)\n",
        "        pass\n",
        "tests/crossing/test_values.py -k kinds_are_the_same",
    ),
    Mutation(
        "nothing",
        "crossing/changed.py",
        "if name in members and _is_inert(old)",
        "if False",
        "tests/crossing/test_values.py -k members_that_hold",
    ),
    Mutation(
        "value",
        "tasks/arguments.py",
        "        if self._holds_itself:\n",
        "        if False:\n",
        "tests/test_flow.py -k holds_itself",
    ),
    Mutation(
        "value",
        "crossing/parts.py",
        "                    bind(data)\n",
        "                    pass\n",
        "tests/crossing/test_values.py -k kinds_are_the_same",
    ),
    Mutation(
        "value",
        "stored/names.py",
        "            raise ClassChangedError(path, changed)\n",
        "            pass\n",
        "tests/crossing/test_stored.py -k fields_of_a_dataclass",
    ),
    Mutation(
        "value",
        "stored/names.py",
        "            raise ClassChangedError(path, changed)\n    return found\n",
        "            raise ClassChangedError(path, changed)\n    return stand_in(path, shape)\n",
        "tests/promises/test_nothing_is_redone.py -k json_is_all",
    ),
    Mutation(
        "value",
        "stored/names.py",
        "    check_members(cls, names)\n",
        "",
        "tests/crossing/test_stored.py -k members_of_an_enum",
    ),
    Mutation(
        "value",
        "stored/code.py",
        "    if version != python_version():\n",
        "    if False:\n",
        "tests/crossing/test_stored.py -k another_python",
    ),
    Mutation(
        "value",
        "crossing/names.py",
        "if found is obj:\n                    return",
        "if True:\n                    return",
        "tests/crossing/test_values.py -k kinds_are_the_same",
    ),
    Mutation(
        "value",
        "crossing/names.py",
        "if found is obj:\n                    return",
        "if True:\n                    return",
        "tests/crossing/test_values_drawn.py -k test_values",
    ),
    Mutation(
        "value",
        "crossing/sharing.py",
        "                if not self._are_unlike(own.used, own.told_apart()):\n",
        "                if True:\n",
        "tests/crossing/test_parts.py -k inside_of_a_part",
    ),
    Mutation(
        "value",
        "checkpoint/writing/beginning.py",
        "structure=old.structure, definitions=old.definitions, absent",
        "structure=old.structure, absent",
        "tests/crossing/test_values.py -k killed_before",
    ),
    Mutation(
        "value",
        "runs/restore.py",
        "            commit.name in changed\n            or ",
        "            ",
        "tests/crossing/test_values.py -k changed_class",
    ),
    Mutation(
        "value",
        "engines/local/worker.py",
        "    hand_down_script()\n",
        "",
        "tests/crossing/test_values.py -k pools",
    ),
    Mutation(
        "value",
        "crossing/names.py",
        "        self.modules = {*BY_VALUE_MODULES, *filter(None, (process.target,))}\n",
        "",
        "tests/crossing/test_script.py -k another_run",
    ),
    Mutation(
        "value",
        "crossing/definitions.py",
        "            if home is not None:\n",
        "            if False:\n",
        "tests/crossing/test_values.py -k kinds_are_the_same",
    ),
    Mutation(
        "value",
        "crossing/definitions.py",
        "        if issubclass(kind, types.ModuleType):\n",
        "        if kind is types.ModuleType:\n",
        "tests/crossing/test_values.py -k kinds_are_the_same",
    ),
    Mutation(
        "value",
        "crossing/picklers.py",
        "            return reduced_instance(obj) if kind in self._guarded else NotImplemented\n",
        "            return NotImplemented\n",
        "tests/crossing/test_values.py -k kinds_are_the_same",
    ),
    Mutation(
        "value",
        "crossing/definitions.py",
        "            return reduced_exception(obj)\n",
        "            pass\n",
        "tests/crossing/test_crossing.py -k other_arguments",
    ),
    Mutation(
        "value",
        "crossing/changed.py",
        "    return not same or bool(renamed(recorded, now))\n",
        "    return not same\n",
        "tests/crossing/test_attributes_set_later.py -k another_name",
    ),
    Mutation(
        "value",
        "crossing/changed.py",
        "        return Inert\n\n    def _looked_up",
        "        return super().find_class(module, name)\n\n    def _looked_up",
        "tests/crossing/test_values.py -k nothing_that_a_result_names",
    ),
    Mutation(
        "deletes",
        "checkpoint/writing/pruning.py",
        "if known and known == self._gone:",
        "if False:",
        "tests/checkpoint/test_pruning.py -k another_job",
    ),
    Mutation(
        "deletes",
        "checkpoint/writing/pruning.py",
        "for name in self._nodes if not self._ledger.completed_commit(name)",
        "for name in self._ledger.commits",
        "tests/checkpoint/test_pruning.py -k kept_for_themselves",
    ),
    Mutation(
        "one death",
        "engines/local/condition.py",
        "return top in sys.stdlib_module_names and top not in _LIVE",
        "return top in ('os', 'pickle', 'resource', 'stat', 'struct', 'time', 'traceback')",
        "tests/promises/test_one_death_one_attempt_damage.py -k emptied",
    ),
    Mutation(
        "limits",
        "engines/local/context.py",
        "        self._process.send_signal(signal.SIGCONT)\n",
        "        pass\n",
        "tests/engines/test_workers.py -k task_has_stopped",
    ),
    Mutation(
        "alive",
        "engines/local/pool.py",
        "                    self._server.wake()  # or nobody tells, if the worker had stopped the server\n",
        "",
        "tests/promises/test_one_death_one_attempt_damage.py -k stopped_the_server",
    ),
    Mutation(
        "one death",
        "engines/local/board.py",
        "fcntl.F_SEAL_SHRINK | ",
        "",
        "tests/promises/test_one_death_one_attempt_damage.py -k goes_to_its_end",
    ),
    Mutation(
        "surroundings",
        "engines/local/surroundings.py",
        "        end.settimeout(None)",
        "        pass",
        "tests/promises/test_surroundings.py -k default_timeout",
    ),
    Mutation(
        "surroundings",
        "engines/local/surroundings.py",
        "[entry for entry in sys.path if isinstance(entry, str)]",
        "[*sys.path]",
        "tests/promises/test_surroundings.py -k path_objects",
    ),
    Mutation(
        "surroundings",
        "engines/local/slot_process.py",
        '        self._config["daemon"] = False  # type: ignore[attr-defined]',
        "        pass",
        "tests/promises/test_surroundings.py -k daemonic",
    ),
    Mutation(
        "alive",
        "checkpoint/writing/beginning.py",
        "        self._mark()\n        journal.say(",
        "        journal.say(",
        "tests/promises/test_alive.py -k whoever_holds",
    ),
    Mutation(
        "input",
        "flow.py",
        "                raise items.alike(",
        "                items.alike(",
        "tests/test_product.py -k under_one_name",
    ),
    Mutation(
        "input",
        "tasks/arguments.py",
        "    if type(value) is Nodes and value:\n",
        "    if False:\n",
        "tests/test_product.py -k refused_where_a_handle_is",
    ),
    Mutation(
        "trust",
        "looking/checkpoint.py",
        "        check_trust(self._directory, allow_untrusted=allow_untrusted)\n",
        "",
        "tests/looking/test_load.py -k everyone_may_write",
    ),
    Mutation(
        "value",
        "checkpoint/blobs.py",
        "        blob = _renamed_late(directory, commit, digests, error)\n",
        "        raise\n",
        "tests/looking/test_load.py -k not_got_its_name",
    ),
    Mutation(
        "alive",
        "looking/opening.py",
        "        if ledger.sequence == known:",
        "        if True:",
        "tests/promises/test_alive.py -k before_the_end",
    ),
    Mutation(
        "alive",
        "looking/nodes.py",
        " and item.name not in ledger.failed_in_run",
        "",
        "tests/promises/test_alive.py -k failed_in_this_run",
    ),
    Mutation(
        "suspended",
        "engines/awake.py",
        "if now - seen > self._step and",
        "if False and",
        "tests/promises/test_suspended.py -k a_gap_counts",
    ),
    Mutation(
        "suspended",
        "engines/local/slot.py",
        "self._since(running.began)",
        "time.monotonic() - running.began",
        "tests/promises/test_suspended.py -k how_long",
    ),
    Mutation(
        "suspended",
        "executor.py",
        "with clock if has_deadlines(plan, run_timeout) else nullcontext():",
        "with nullcontext():",
        "tests/promises/test_suspended.py -k all_processes",
    ),
    Mutation(
        "surroundings",
        "engines/local/surroundings.py",
        "pair = _socket.socketpair(",
        "pair = socket.socketpair(",
        "tests/promises/test_surroundings.py -k gevent_patches",
    ),
    Mutation(
        "surroundings",
        "engines/local/surroundings.py",
        "bytes(process.current_process().authkey)",
        "process.current_process().authkey",
        "tests/promises/test_surroundings.py -k celery_process",
    ),
    Mutation(
        "suspended",
        "engines/local/server.py",
        "[pid for pid, due in self.dying.items() if due <= now]",
        "[*self.dying]",
        "tests/promises/test_suspended.py -k the_grace",
    ),
    Mutation(
        "alive",
        "checkpoint/files/locks.py",
        "    set_mark(fd, fcntl.F_UNLCK)  # also for a fork that has not come to let go of it yet",
        "    pass",
        "tests/promises/test_alive.py -k lives_on",
    ),
    Mutation(
        "compression",
        "checkpoint/blobs.py",
        "    if len(found) != size:\n",
        "    if False:\n",
        "tests/checkpoint/test_compression.py -k another_size",
    ),
    Mutation(
        "compression",
        "checkpoint/format/compression.py",
        "    return n <= _WORTH * sum(map(len, samples))\n",
        "    return True\n",
        "tests/checkpoint/test_compression.py -k sample_decides",
    ),
    Mutation(
        "compression",
        "checkpoint/reading/present.py",
        "== commit.stored_size]",
        "== commit.size]",
        "tests/checkpoint/test_compression.py -k rename_that",
    ),
    Mutation(
        "results not kept",
        "runs/state.py",
        "if self.takers.get(node) == 0 and",
        "if node in self.takers and",
        "tests/promises/test_results_not_kept.py -k failed_node_takes",
    ),
    Mutation(
        "results not kept",
        "runs/restore.py",
        " or not sure.issuperset(takers)",
        "",
        "tests/promises/test_results_not_kept.py -k new_node_that_takes",
    ),
    Mutation(
        "results not kept",
        "checkpoint/writing/committing.py",
        "            self._journal.say(*dropped)\n",
        "            self._journal.say(*dropped, sync=False)\n",
        "tests/promises/test_any_instant_power_loss.py -k acknowledged_is_there",
    ),
    Mutation(
        "results not kept",
        "checkpoint/reading/ledger.py",
        "                        self.owned.add(self.dropped.file_of(name))\n",
        "",
        "tests/promises/test_any_instant_power_loss.py -k acknowledged_is_there",
    ),
    Mutation(
        "results not kept",
        "checkpoint/reading/ledger.py",
        "                self.removed.add(self.dropped.file_of(name))\n",
        "",
        "tests/promises/test_results_not_kept.py -k somebody_elses",
    ),
    Mutation(
        "results not kept",
        "checkpoint/reading/ledger.py",
        "                self.dropped.move(name, self.lost)  # as with what was lost, the children stay as they are\n",
        "",
        "tests/promises/test_results_not_kept.py -k fails_when_it_is_made",
    ),
    Mutation(
        "results not kept",
        "runs/state.py",
        " or child in self._gone\n",
        "\n",
        "tests/promises/test_results_not_kept.py -k in_doubt",
    ),
    Mutation(
        "results not kept",
        "runs/invalidation.py",
        " or name in ledger.lost)",
        ")",
        "tests/promises/test_results_not_kept.py -k can_be_invalidated",
    ),
    Mutation(
        "wrong value",
        "checkpoint/reading/ledger.py",
        "                self.lost.move(name, self.stale)\n",
        "",
        "tests/promises/test_results_not_kept.py -k in_doubt",
    ),
    Mutation(
        "results not kept",
        "checkpoint/writing/pruning.py",
        " and not is_dropped",
        "",
        "tests/promises/test_results_not_kept.py -k leave_the_journal",
    ),
    Mutation(
        "outputs",
        "outputs.py",
        "        if _identity(status) == before:\n",
        "        if False:\n",
        "tests/promises/test_outputs_are_checked.py -k there_before",
    ),
    Mutation(
        "outputs",
        "runs/plan.py",
        "tuple(os.path.join(here, path) for path in policy.outputs)",
        "tuple(os.path.normpath(os.path.join(here, path)) for path in policy.outputs)",
        "tests/promises/test_outputs_are_checked.py -k symbolic_link",
    ),
    Mutation(
        "outputs",
        "runs/prepare.py",
        "_outputs_changed(dag, plan, earlier) if plan.outputs else {}",
        "{}",
        "tests/promises/test_outputs_are_checked.py -k is_gone_is_written",
    ),
    Mutation(
        "outputs",
        "runs/prepare.py",
        '        store.invalidate([*prepared.outputs], "an output is gone or has changed")\n',
        "",
        "tests/promises/test_outputs_are_checked.py -k kill_between",
    ),
    Mutation(
        "outputs",
        "checkpoint/writing/committing.py",
        " or old.has_other_outputs(commit)",
        "",
        "tests/promises/test_outputs_are_checked.py -k became_another",
    ),
    Mutation(
        "trust",
        "preview/making.py",
        "len(args) <= _MAX_ARGS",
        "True",
        "tests/preview/test_hostile.py -k again_and_again_of_one",
    ),
    Mutation(
        "trust",
        "preview/showing.py",
        "        if n > self._work:\n",
        "        if False:\n",
        "tests/preview/test_hostile.py -k not_looked_at_without_end",
    ),
    Mutation(
        "trust",
        "preview/showing.py",
        "        if id(value) in self._open:\n",
        "        if False:\n",
        "tests/preview/test_hostile.py -k holds_itself",
    ),
    Mutation(
        "trust",
        "preview/showing.py",
        '            return shown_name(f"{module}{name.path[:_MAX_NAME]}")\n',
        '            return f"{module}{name.path[:_MAX_NAME]}"\n',
        "tests/preview/test_hostile.py -k what_was_made_to_harm",
    ),
    Mutation(
        "trust",
        "preview/readers/numpy_arrays.py",
        "or not array.dtype.size ",
        "",
        "tests/preview/test_hostile.py -k what_was_made_to_harm",
    ),
]


def mutated(mutation: Mutation, text: str) -> str:
    """Return the text of a module without the protection."""
    if text.count(mutation.old) != 1:
        raise ValueError(f"{mutation.module}: {mutation.old!r} stands there {text.count(mutation.old)} times")
    return text.replace(mutation.old, mutation.new)


def is_noticed(mutation: Mutation) -> bool:
    """Run the test of a mutation on a copy of the source; tell whether it failed."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "dagron"
        shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        module = copy / mutation.module
        module.write_text(mutated(mutation, module.read_text()))
        files, _, words = mutation.test.partition(" -k ")
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files.split()]
        process = subprocess.Popen(
            [*command, *(["-k", words] if words else [])],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": directory, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        with process:
            try:
                out, _ = process.communicate(timeout=_LIMIT_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return True  # it hangs also where the test is cleaned up
        if process.returncode not in (0, 1):  # no test was found, or pytest itself failed
            raise RuntimeError(out)
        return process.returncode == 1


def turn(n: int) -> list[Mutation]:
    """Return the five mutations whose turn it is the `n`th time; those that follow them are next."""
    return [MUTATIONS[i % len(MUTATIONS)] for i in range(5 * n, 5 * n + 5)]


def main(words: list[str]) -> int:
    """Try the mutations and print what came of each."""
    unnoticed = 0
    if words[:1] == ["--turn"]:
        chosen = turn(int(words[1]))
    else:
        chosen = [m for m in MUTATIONS if not words or any(word in m.promise for word in words)]
    for mutation in chosen:
        noticed = is_noticed(mutation)
        unnoticed += not noticed
        what = mutation.old.strip().splitlines()[-1].strip()
        print(
            f"{'noticed' if noticed else 'NOT NOTICED':12} {mutation.promise:9} {mutation.module}: {what}", flush=True
        )
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
