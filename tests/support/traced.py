"""A program, no test: runs functions in processes of their own under `strace`, which kills them or makes calls fail.

    python traced.py FILE

executes FILE once, so that whatever it imports is there, and then forks a process for every request. A request is a
line of JSON on standard input: the name of a function of FILE, its arguments, the options of strace (null: run without
it), the file for strace's log, and how many seconds all that the process started may outlive it. The answer is a line
on standard output: the exit code of the process (negative for a signal), what the function returned, and whether
something outlived it for longer.

strace is attached before the function starts, so that it counts the calls of the function only; a start under strace
would make thousands for imports, and take half a second instead of a few milliseconds. Only the main thread is traced.
"""

import ctypes

# What a run imports when it needs it; here, so that it is not imported by every process again.
import fcntl  # noqa: F401
import gc
import json
import os
import runpy
import signal
import sys

from tracing import allow_tracing, attach_strace

PR_SET_CHILD_SUBREAPER = 36


def run(function, arguments, options, log, seconds):
    result_read, result_write = os.pipe()
    go_read, go_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(go_write)
            allow_tracing()
            os.read(go_read, 1)
            os.write(result_write, json.dumps(function(**arguments)).encode())
            code = 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.close(result_write)
    os.close(go_read)
    tracer = attach_strace(pid, options, log) if options is not None else None
    os.close(go_write)
    with open(result_read, "rb") as file:
        result = json.loads(file.read() or b"null")  # to the end of the process: nobody inherits the other end
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if tracer is not None:
        tracer.stderr.close()
        tracer.wait()
    return {"code": code, "result": result, "left": left_after(seconds)}


def left_after(seconds):
    """Wait until all that the process started is gone; its orphans become our children. Return whether one is left."""

    def late(*_):
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        while True:
            os.wait()
    except ChildProcessError:
        return False
    except TimeoutError:
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main():
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    functions = runpy.run_path(sys.argv[1], run_name="traced_functions")
    gc.freeze()  # or a collection in a fork would write to every page, and copy it by that
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the functions print is no answer
    for line in sys.stdin:
        request = json.loads(line)
        answer = run(functions[request.pop("function")], **request)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
