"""`CheckpointExecutor`, the public face: it checks what it is given, wires a run together, and returns the result."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal, Unpack

from dagron.callbacks import ExecutionCallbacks, RunObserver
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.format.names import JOURNAL, META
from dagron.checkpoint.format.records import NO_ORIGIN, Origin
from dagron.checkpoint.reading.opening import check_journal, checkpoint_path, read_ledger
from dagron.checkpoint.writing.claim import check_directory
from dagron.checkpoint.writing.store import CheckpointStore, Durability
from dagron.errors import CheckpointDamagedError, OptionError
from dagron.graph.dag import DAG
from dagron.loading import begin_no_run_while_loading
from dagron.runs.interrupts import Interrupts
from dagron.runs.options import Options
from dagron.shown import iso_time
from dagron.tasks.meant import refuses_unknown_options
from dagron.tasks.options import Task, check_timeout

if TYPE_CHECKING:
    from dagron.checkpoint.reading.ledger import Ledger
    from dagron.checkpoint.writing.pruning import PruneReport
    from dagron.engines.attempt import WorkerSetup
    from dagron.results.info import CheckpointInfo
    from dagron.results.results import ExecutionResult
    from dagron.results.trace import ExecutionTrace
    from dagron.runs.coordinator import CancelEvent
    from dagron.runs.observing import Watch
    from dagron.runs.options import ExecutorOptions
    from dagron.runs.prepare import Prepared
    from dagron.runs.state import RunState

__all__ = ["CheckpointExecutor"]

logger = logging.getLogger("dagron")

Tasks = Mapping[str, Callable[..., Any] | Task[Any]]


def _can_be_a_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


class CheckpointExecutor:
    """Runs the tasks of a DAG on worker processes and checkpoints each node as it completes.

    Args:
        dag: The DAG.
        checkpoint_dir: The directory of the checkpoint; created if it does not exist.
        callbacks: Functions to call while a run goes on.
        fail_fast: If True, every node downstream of a failed one is skipped; independent branches go on. If False,
            downstream nodes are attempted too, except those that take the failed node's result.
        enable_tracing: If True, record what ran when and where, in `ExecutionResult.trace`.
        max_workers: Worker processes, each running one task at a time. Default: the processors of this process.
        durability: `"power"`: what is committed survives a loss of power. `"process"`: it survives the end of every
            process, also by `kill -9`, and the flushes are saved.
        pool: `"process"`, or `"inline"` to run the tasks one by one in this thread, for debuggers; nothing can be
            killed then, and a warning names the nodes whose timeout or memory limit is not kept.
        retries: Further attempts for a node that failed, where its `Task` does not say.
        retry_delay: Seconds before the first further attempt; doubled for each one after it, with up to 25 % jitter.
        retry_on: Which exceptions are worth a further attempt. A lost worker and a timeout always are.
        timeout: Seconds that one attempt may take; its process tree is killed then.
        memory_limit: Bytes that the worker of a node, with all that the node starts, may have in memory; also a text
            such as `"2GB"`. Its process tree is killed when it is seen with more: at most 0.1 s later than it was.
        pin_cpus: Bind the worker of each slot, with all that it starts, to a processor of its own, one for each core
            first: for measurements. Ignored with a warning where the system has no such call, as on macOS.
        kill_grace_seconds: Between the SIGTERM and the SIGKILL to a process tree that is killed.
        signing_key: Keys every digest and check of the checkpoint, so that nothing is unpickled that was not written
            with this key; bytes of any length. Default: the environment variable `DAGRON_SIGNING_KEY`, if it is set.
        allow_untrusted: Accept a checkpoint that another user owns or that everyone may write.
        progress: If True, show a progress bar; or an observer of your own.
        pass_output: Whether what tasks print is handed on to `sys.stdout` and `sys.stderr` of this process. The end of
            it is recorded in the checkpoint in any case, except with `pool="inline"`.
        max_tasks_per_worker: After so many attempts a worker is replaced by a new one, for libraries that leak. With
            `pool="inline"` a warning says that it is not kept. Default: a worker lives as long as the run.
        worker_init: A callable without arguments that each worker calls once, before its first node; with
            `pool="inline"` this process does. Bind arguments with `functools.partial`. No node's time or limit contains
            it. If it fails, the run ends with `WorkerInitError`.
        keep: If False, the result of a node is deleted once all nodes that take it are recorded, where its `Task` does
            not say otherwise; one that no node takes stays. It is made again if it is needed after all.
        compression: `"zstd"` compresses results of more than 64 KiB, where a sample of one shrinks by a fifth. They are
            read as all others are, also by runs without it. Needs Python 3.14, `backports.zstd` or `zstandard`.

    Attributes:
        dag: The DAG.
        checkpoint_dir: The directory of the checkpoint, as it was given.

    Raises:
        OptionError: An option has a value that it cannot have.
        CheckpointDirectoryError: `checkpoint_dir` is relative, and the working directory is gone.
    """

    @refuses_unknown_options("CheckpointExecutor")
    def __init__(
        self,
        dag: DAG,
        checkpoint_dir: str | os.PathLike[str],
        callbacks: ExecutionCallbacks | None = None,
        fail_fast: bool = True,
        enable_tracing: bool = False,
        *,
        max_workers: int | None = None,
        durability: Durability = "power",
        pool: Literal["process", "inline"] = "process",
        retries: int = 0,
        retry_delay: float = 1.0,
        retry_on: tuple[type[BaseException], ...] = (Exception,),
        timeout: float | None = None,
        memory_limit: int | str | None = None,
        pin_cpus: bool = False,
        kill_grace_seconds: float = 1.0,
        signing_key: bytes | None = None,
        allow_untrusted: bool = False,
        progress: bool | RunObserver = False,
        pass_output: bool = True,
        max_tasks_per_worker: int | None = None,
        worker_init: Callable[[], object] | None = None,
        keep: bool = True,
        compression: Literal["zstd"] | None = None,
    ) -> None:
        if not isinstance(dag, DAG):
            raise OptionError("dag", repr(dag)[:80], "a dagron.DAG; build one with DAG.builder()")
        if not isinstance(checkpoint_dir, (str, os.PathLike)) or os.fspath(checkpoint_dir) in ("", b""):
            raise OptionError("checkpoint_dir", repr(checkpoint_dir), "the path of a directory")
        if not isinstance(os.fspath(checkpoint_dir), str) or not _can_be_a_path(os.fspath(checkpoint_dir)):
            raise OptionError("checkpoint_dir", repr(checkpoint_dir), "a str that the system takes for a path")
        self.dag = dag
        self.checkpoint_dir = os.fspath(checkpoint_dir)
        self._path = checkpoint_path(checkpoint_dir)
        self._origin = NO_ORIGIN
        self._look: Callable[[Ledger], None] | None = None
        self._options = Options(
            callbacks=callbacks,
            fail_fast=fail_fast,
            enable_tracing=enable_tracing,
            max_workers=max_workers,
            durability=durability,
            pool=pool,
            retries=retries,
            retry_delay=retry_delay,
            retry_on=retry_on,
            timeout=timeout,
            memory_limit=memory_limit,
            pin_cpus=pin_cpus,
            kill_grace_seconds=kill_grace_seconds,
            signing_key=signing_key,
            allow_untrusted=allow_untrusted,
            progress=progress,
            pass_output=pass_output,
            max_tasks_per_worker=max_tasks_per_worker,
            worker_init=worker_init,
            keep=keep,
            compression=compression,
        )

    @classmethod
    def _of_job(
        cls,
        origin: Origin,
        look: Callable[[Ledger], None],
        dag: DAG,
        checkpoint_dir: str | os.PathLike[str],
        **options: Unpack[ExecutorOptions],
    ) -> CheckpointExecutor:
        """Return an executor whose runs are recorded as those of a job; for the command line.

        Args:
            origin: The job.
            look: Called with what is there before that is gone on from or superseded; may raise.
            dag: As for the class.
            checkpoint_dir: As for the class.
            options: As for the class.
        """
        executor = cls(dag, checkpoint_dir, **options)
        executor._origin, executor._look = origin, look
        return executor

    def __repr__(self) -> str:
        return f"CheckpointExecutor({self.dag!r}, checkpoint_dir={self.checkpoint_dir!r})"

    @refuses_unknown_options("CheckpointExecutor.execute")
    def execute(
        self, tasks: Tasks, *, run_timeout: float | None = None, cancel_event: CancelEvent | None = None
    ) -> ExecutionResult:
        """Run all tasks and checkpoint each node as it completes. A checkpoint that is there is superseded.

        A parameter named like a parent node receives that parent's result; `*args` receives the results of the parents
        not taken by name, in the order in which their edges were added; `**kwargs` receives those parents by name. A
        task without parameters is simply called.

        Args:
            tasks: A callable, or a `Task` around one, for every node of the DAG.
            run_timeout: Seconds after which the run is stopped and what runs is killed.
            cancel_event: Stops the run when it is set; asked twenty times a second.

        Returns:
            How every node ended. A node that failed is no exception here.

        Raises:
            TaskDefinitionError: The tasks do not fit the DAG. Nothing was run or changed.
            CheckpointError: The directory cannot be used, and nothing was run or changed; or, as `CommitError`, the
                disk refused a write in mid-run.
            WorkerStartError: No worker can be started, or `worker_init` failed.
            KeyboardInterrupt: From the user. Nothing is left running, and `resume` goes on from there.

        Guarantees:
            When a node's dependents start, and when its callback is called, its result is in the checkpoint. No process
            that this started is left when it returns or raises.

        On crash:
            `resume` goes on from the last commit.
        """
        return self._run(tasks, fresh=True, run_timeout=run_timeout, cancel_event=cancel_event)

    @refuses_unknown_options("CheckpointExecutor.resume")
    def resume(
        self, tasks: Tasks, *, run_timeout: float | None = None, cancel_event: CancelEvent | None = None
    ) -> ExecutionResult:
        """Go on from the checkpoint: run what has not completed, and take the results of what has.

        Without a checkpoint everything runs. A node that completed runs again if its set of parents has changed, with
        its descendants; if it ran while a parent was failed and that parent completes now; if a parent ran again for
        such a reason and its result differs now; or if its result was lost or damaged (a warning says so). In a
        directory that cannot be written, the results are given if there is nothing to run.

        Args:
            tasks: As for `execute`: every node, not only the remaining ones.
            run_timeout: As for `execute`.
            cancel_event: As for `execute`.

        Returns:
            How every node ended. Restored nodes are COMPLETED and count in `succeeded`.

        Raises:
            CheckpointDamagedError: The journal is missing or its beginning is damaged.
            DagronError: As for `execute`.
        """
        return self._run(tasks, fresh=False, run_timeout=run_timeout, cancel_event=cancel_event)

    def checkpoint_info(self) -> CheckpointInfo | None:
        """Return what is known about the checkpoint, or None if there is none.

        Reads without the lock, also while another process writes, and unpickles nothing.

        Raises:
            CheckpointError: There is a checkpoint that cannot be read.
        """
        from dagron.results.info import CheckpointInfo

        ledger = read_ledger(Directory(self._path), self._options.key)
        if ledger is None or ledger.cleared:
            return None
        return CheckpointInfo(
            self.checkpoint_dir,
            ledger.completed,
            ledger.failed,
            ledger.run.total,
            iso_time(ledger.updated_unix),
        )

    def clear_checkpoint(self) -> None:
        """Delete the files of the checkpoint, and no others; without a checkpoint do nothing.

        Raises:
            CheckpointLockedError: A run is writing it.
            ClearError: The disk refused; what the error says is left of it: the checkpoint as it was, or none and some
                files, which go with the next clearing or run.
            CheckpointError: The directory cannot be used, and nothing in it was changed.

        On crash:
            The checkpoint as it was, or none.
        """
        directory = Directory(self._path)
        try:
            check_journal(directory, self._options.key)
        except CheckpointDamagedError:
            pass  # `clear` knows enough to delete it
        if not directory.exists(JOURNAL) and not directory.exists(META):
            return
        from dagron.runs.leftovers import end_leftovers

        store = self._store()
        try:
            store.open(accept_damage=True)
            end_leftovers(store)
            store.clear()
        finally:
            store.close()

    def prune_checkpoint(self, *, dry_run: bool = False, even_all: bool = False) -> PruneReport | None:
        """Drop from the checkpoint what no resume of this DAG needs, and return what that was; None if there is none.

        Dropped are results, failures and files of nodes that the DAG does not have; records of the journal that later
        ones supersede; what tasks printed in runs before the last one; and files and scratch directories that older
        runs have left. A resume keeps and repeats what it would have kept and repeated otherwise.

        Args:
            dry_run: Only look; then the checkpoint need not be free.
            even_all: Go on also if the DAG has none of the nodes that the checkpoint knows, and all of them go.

        Raises:
            CheckpointLockedError: A run is writing it.
            CheckpointDamagedError: Its journal is damaged, of which a resume has to know.
            OtherDagError: All would go, and `even_all` does not say so.
            PruneError: The disk refused. The error says how the checkpoint stands.
            CheckpointError: The directory cannot be used, and nothing in it was changed.

        On crash:
            The checkpoint as it was, or pruned.
        """
        directory = Directory(self._path)
        ledger = read_ledger(directory, self._options.key)
        if ledger is None or ledger.cleared:
            return None
        if dry_run:
            from dagron.checkpoint.writing.pruning import Pruning

            return Pruning(directory, self._options.key, self.dag.nodes).report
        from dagron.runs.leftovers import end_leftovers

        store = self._store()
        try:
            store.open()
            if store.ledger is None or store.ledger.cleared:
                return None
            end_leftovers(store)
            return store.prune(self.dag.nodes, even_all=even_all)
        finally:
            store.close()

    def _store(self) -> CheckpointStore:
        options = self._options
        return CheckpointStore(
            self._path,
            durability=options.durability,
            signing_key=options.key,
            allow_untrusted=options.allow_untrusted,
        )

    def _run(
        self, tasks: Tasks, *, fresh: bool, run_timeout: float | None, cancel_event: CancelEvent | None
    ) -> ExecutionResult:
        # Before the imports: an interrupt that is raised in one may come in a callback of Python's, which drops it.
        with Interrupts() as interrupts:
            return self._run_held(tasks, fresh, run_timeout, cancel_event, interrupts)

    def _run_held(
        self,
        tasks: Tasks,
        fresh: bool,
        run_timeout: float | None,
        cancel_event: CancelEvent | None,
        interrupts: Interrupts,
    ) -> ExecutionResult:
        # Imported here, so that `import dagron` alone does not pay for cloudpickle and multiprocessing.
        from dagron.engines.awake import AwakeClock
        from dagron.engines.local.processes import check_system
        from dagron.runs.conclusion import conclude
        from dagron.runs.coordinator import Coordinator
        from dagron.runs.engine import LazyEngine, choose_engine
        from dagron.runs.plan import plan_run
        from dagron.runs.prepare import begin_run, check_limits, has_deadlines
        from dagron.runs.read_only import resume_read_only

        begin_no_run_while_loading(self.dag, tasks, self._path)
        check_system()
        check_timeout("run_timeout", run_timeout)
        if cancel_event is not None and not callable(getattr(cancel_event, "is_set", None)):
            raise OptionError("cancel_event", repr(cancel_event), "an object with is_set(), such as a threading.Event")
        began = time.monotonic()
        dag, options, store = self.dag, self._options, self._store()
        clock = AwakeClock()
        engine = choose_engine(options, clock.since)
        pool = LazyEngine(lambda: engine.start(self._setup(store), interrupts))
        trace = self._trace(engine.n_slots)
        if not fresh and store.directory.can_only_be_read():
            with interrupts.allowed():
                plan, callbacks = plan_run(dag, tasks, options), options.callbacks or ExecutionCallbacks()
                result = resume_read_only(store, dag, plan, callbacks, trace, self._look)
            result.total_duration_seconds = time.monotonic() - began
            return result
        try:
            if fresh and len(dag) and not (cancel_event is not None and cancel_event.is_set()):
                # The workers start while the tasks are checked. A resume may have nothing to run.
                check_directory(store.directory, allow_untrusted=options.allow_untrusted)
                pool()
            with interrupts.allowed():
                plan = plan_run(dag, tasks, options)
            pool.init = plan.init
            check_limits(dag, plan, options, engine.features)
            prepared = begin_run(store, dag, plan, options, engine, fresh=fresh, origin=self._origin, look=self._look)
            state = prepared.state(options, engine)
            coordinator = Coordinator(
                dag=dag,
                plan=plan,
                state=state,
                store=store,
                start_pool=pool,
                callbacks=options.callbacks or ExecutionCallbacks(),
                watch=self._watch(prepared, state, engine.n_slots, began),
                trace=trace,
                run_timeout=run_timeout,
                cancel_event=cancel_event,
                interrupts=interrupts,
                pass_output=options.pass_output,
                clock=clock,
            )
            coordinator.report_restored(prepared.restore.restored)
            with clock if has_deadlines(plan, run_timeout) else nullcontext():
                coordinator.run()
            result = conclude(dag, state, coordinator, store, trace)
            store.end(
                succeeded=result.succeeded,
                failed=result.failed,
                timed_out=result.timed_out,
                unreached=[*map(dag.name_of, state.unreached())],
                out_of_time=[*map(dag.name_of, state.out_of_time())],
            )
        except BaseException:
            store.interrupt()
            raise
        finally:
            pool.close()
            store.close()
        result.total_duration_seconds = time.monotonic() - began
        from dagron.results.ignored import note_unseen, superseded

        superseded(self._path)
        if (result.failed or result.timed_out) and (options.callbacks is None or options.callbacks.on_failure is None):
            result._unseen = note_unseen([name for name, _ in result._failed()], len(dag), self._path)
        return result

    def _setup(self, store: CheckpointStore) -> WorkerSetup:
        from dagron.engines.attempt import WorkerSetup

        durable, mode = self._options.durability == "power", store.directory.file_mode
        compresses = self._options.compression is not None
        return WorkerSetup(str(self._path), store.digests, durable, file_mode=mode, compresses=compresses)

    def _trace(self, n_slots: int) -> ExecutionTrace | None:
        if not self._options.enable_tracing:
            return None
        from dagron.results.trace import ExecutionTrace

        return ExecutionTrace(n_slots, time.time())

    def _watch(self, prepared: Prepared, state: RunState, n_slots: int, began: float) -> Watch:
        from dagron.runs.observing import Watch
        from dagron.runs.outlook import Outlook

        observer: bool | RunObserver | None = self._options.progress
        if observer is True:
            from dagron.display.progress import ProgressBar

            observer = ProgressBar()
        if isinstance(observer, bool):
            return Watch(prepared.dag, state, None, None, began)
        outlook = Outlook(prepared.plan.kinds, prepared.recorded_seconds, n_slots)
        return Watch(prepared.dag, state, observer, outlook, began)
