"""Programs pass, fail and are ended; what they try against the harness and the machine does not work."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lcbench.tasks import code_execution
from lcbench.tasks.code_execution import failure

# A program, the seconds that it is given (four times as much by the clock), and why it is ended.
ENDLESS = {
    "loops": ("while True: pass", 1, "no end within"),
    "waits": ("import time\ntime.sleep(100)", 0.4, "no end within"),
    "ignores the signal": ("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", 1, ""),
    "waits for a child": ("import os, time\nif os.fork() == 0: time.sleep(100)\nos.wait()", 0.4, "no end within"),
}
WRONG = {
    "an assertion": ("assert 1 == 2, 'one is not two'", "AssertionError: one is not two"),
    "no Python": ("def f(:", "SyntaxError"),
    "memory": ("x = bytearray(2**32)", "MemoryError"),
    "recursion": ("def f(): f()\nf()", "RecursionError"),
    "a large file": ("open('large', 'wb').write(bytes(2**24))", "OSError"),
    "asks the user": ("input()", "EOFError"),
    "exits before its end": ("import sys\nsys.exit(0)\nassert False", "SystemExit"),
    "is gone before its end": ("import os\nos._exit(0)", "exit code 0"),
    "crashes": ("import os\nos.kill(os.getpid(), 11)", "exit code -11"),
    "an error that says nothing": ("raise ValueError", "ValueError"),
}
# A search of all frames, objects and files for a token, to be told as the process that runs the program tells it.
FORGERY = """
import gc, os, sys, types
found, seen = set(), set()
def look(thing):
    if id(thing) in seen: return
    seen.add(id(thing))
    if isinstance(thing, (bytes, bytearray)): found.add(bytes(thing))
    elif isinstance(thing, str): found.add(thing.encode(errors="replace"))
    elif isinstance(thing, int): found.add(str(thing).encode())
    for part in gc.get_referents(thing): look(part)
sys.setrecursionlimit(100_000)
frames, frame = [], sys._getframe()
while frame is not None:
    frames.append(frame)
    for thing in (*frame.f_locals.values(), *frame.f_globals.values(), frame.f_code.co_consts, frame): look(thing)
    frame = frame.f_back
assert len(frames) > 2  # those of the process that runs this
for thing in (*gc.get_objects(), *sys.modules.values()): look(thing)
for name in ("/proc/self/environ", "/proc/self/cmdline"):
    try: found.add(open(name, "rb").read())
    except OSError: pass
import mmap
pages = [thing for thing in gc.get_objects() + frames[-1:] if isinstance(thing, mmap.mmap)]
pages += [value for frame in frames for value in frame.f_locals.values() if isinstance(value, mmap.mmap)]
assert pages
for number in range(3, 200):
    try: os.fstat(number)
    except OSError: continue
    os._exit(100)  # no descriptor is open
for text in found:
    if len(text) == 32 and not set(text) - set(b"0123456789abcdef"):  # looks like a token
        pages[0].seek(0)
        pages[0].write(text)
os._exit(0)
"""
RUNNING_ON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        if {execute}: os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)", {marker!r}])
        os.chdir("/")
        time.sleep(60)
    os._exit(0)
os.wait()
time.sleep(0.2)
"""
SIGNALS = {
    "its group": "os.kill(0, signal.SIGKILL)",
    "its group by number": "os.killpg(os.getpgrp(), signal.SIGKILL)",
    "its parent": "os.kill(os.getppid(), signal.SIGKILL)",
    "its parent, politely": "os.kill(os.getppid(), signal.SIGINT)",
    "its parent for a while": "os.kill(os.getppid(), signal.SIGSTOP)",
}


@pytest.fixture(params=["namespaces", "limits"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both ways to run a program: the second on a system that allows no namespaces, which a first try finds out."""
    code_execution._note.cache_clear()
    monkeypatch.setattr(code_execution, "_isolated", sys.platform == "linux")
    if request.param == "limits" and isolates():
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "python"
            no_more = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$0" "$@"'
            script.write_text(f"#!/bin/sh\nexec unshare -r sh -c '{no_more}' {sys.executable} \"$@\"\n")
            script.chmod(stat.S_IRWXU)
            monkeypatch.setattr(sys, "executable", str(script))
            yield request.param
    elif request.param == "namespaces" and not isolates():
        pytest.skip("this system allows no namespaces")
    else:
        yield request.param


@pytest.fixture
def namespaces() -> None:
    if not isolates():
        pytest.skip("this system allows no namespaces")


def isolates() -> bool:
    return shutil.which("unshare") is not None and (
        subprocess.run(["unshare", "-rnpim", "--fork", "true"], capture_output=True, check=False).returncode == 0
    )


def processes_with(text: str) -> list[str]:
    """The command lines of processes that have a text in them."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line:
            found.append(line)
    return found


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_program_says_why(what: str) -> None:
    program, reason = WRONG[what]
    found = failure(program)
    assert found is not None and reason in found


@pytest.mark.parametrize("what", ENDLESS)
def test_a_program_without_end_is_ended(what: str) -> None:
    program, timeout, reason = ENDLESS[what]
    started = time.monotonic()
    found = failure(program, timeout=timeout)
    assert found is not None and reason in found
    assert time.monotonic() - started < 10


def test_a_right_program_passes_whatever_it_prints(way: str) -> None:
    assert failure("assert sum(range(10)) == 45") is None
    assert failure("print('x' * 10**7)\nimport sys\nprint('y', file=sys.stderr)") is None
    assert failure("import os\nos.closerange(0, 1000)") is None


def test_memory_is_as_said() -> None:
    program = "x = bytearray(200 * 2**20)"
    assert failure(program, memory=2**29) is None
    assert failure(program, memory=2**27) == "MemoryError"


def test_the_environment_stays_outside(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    here = os.getcwd()
    assert (
        failure(f"import os\nassert 'HF_TOKEN' not in os.environ and os.listdir() == [] and os.getcwd() != {here!r}")
        is None
    )


def test_sets_have_one_order() -> None:
    told = {failure("raise ValueError(hash('a text'))") for _ in range(3)}
    assert len(told) == 1 and None not in told


def test_a_program_is_the_main_module() -> None:
    assert failure("import pickle\nclass A: pass\nassert type(pickle.loads(pickle.dumps(A()))) is A") is None


def test_processes_and_threads_of_a_program_work(way: str) -> None:
    pool = "import multiprocessing\ndef f(x): return x + 1\nassert multiprocessing.Pool(2).map(f, [1, 2]) == [2, 3]"
    assert failure(pool) is None
    assert failure("import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()") is None
    assert failure("import subprocess, sys\nassert subprocess.run([sys.executable, '-c', '']).returncode == 0") is None


def test_the_way_is_said_once(way: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="lcbench"):
        assert failure("") is None and failure("") is None
    (record,) = caplog.records
    assert ("namespaces of their own" in record.message) == (way == "namespaces")
    assert (record.levelname == "WARNING") == (way == "limits")


def test_a_machine_that_cannot_run_programs_is_no_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="limits cannot be set"):
        failure("", timeout=float("inf"))
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(RuntimeError, match="exit code 1"):
        failure("")


def test_nothing_to_forge_a_pass_with_is_found(way: str) -> None:
    found = failure(FORGERY)
    assert found == "ended early, exit code 0"


def test_a_word_of_the_program_is_no_pass(way: str) -> None:
    assert failure("raise SystemExit('passed')") == "SystemExit: passed"
    assert failure("import threading, os\nthreading.Timer(0.1, os._exit, [0]).start()\nwhile True: pass") is not None


@pytest.mark.parametrize("execute", [True, False])
def test_no_process_is_left(way: str, execute: bool, tmp_path: Path) -> None:
    marker = f"left-{way}-{os.getpid()}"
    program = RUNNING_ON.format(marker=marker, execute=execute)
    # What is forked and not executed has the command line of the process it comes from.
    before = processes_with("sandbox.supervisor")
    assert failure(program) is None
    assert processes_with(marker) == []
    assert processes_with("sandbox.supervisor") == before
    assert failure(program + "assert False") == "AssertionError"
    assert processes_with(marker) == []


@pytest.mark.parametrize("target", SIGNALS)
def test_a_program_signals_nobody_else(way: str, target: str) -> None:
    started = time.monotonic()
    found = failure(f"import os, signal, time\n{SIGNALS[target]}\ntime.sleep(0.2)\nassert False, 'alive'", timeout=1)
    assert found is not None
    assert time.monotonic() - started < 15
    if way == "namespaces" and "parent" in target:
        assert found == "AssertionError: alive"  # which PID 1 is, and does not listen


def test_a_program_sees_no_process_but_its_own(namespaces: None) -> None:
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        assert (
            failure("import os, signal\nos.kill(-1, signal.SIGKILL)") == "ProcessLookupError: [Errno 3] No such process"
        )
        assert failure(f"import os\nos.kill({sleeper.pid}, 9)") == "ProcessLookupError: [Errno 3] No such process"
        assert failure("import os\nassert os.getppid() == 1 and os.listdir('/proc') == []") is None
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


def test_the_environment_of_the_harness_is_out_of_sight(namespaces: None) -> None:
    for process in (os.getpid(), "self", 1):
        found = failure(f"open('/proc/{process}/environ', 'rb').read()")
        assert found is not None and found.startswith("FileNotFoundError")


def test_files_elsewhere_cannot_be_written(namespaces: None, tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text("a record")
    for path in (tmp_path / "records.jsonl", tmp_path / "new", Path.home() / "lcbench-test", Path("/dev/lcbench")):
        found = failure(f"open({str(path)!r}, 'a').write('x')")
        assert found is not None and found.startswith(("OSError: [Errno 30]", "PermissionError"))
    found = failure(f"import os\nos.remove({str(tmp_path / 'records.jsonl')!r})")
    assert found is not None and found.startswith("OSError: [Errno 30]")
    remount = "import subprocess\nassert subprocess.run(['mount', '-o', 'remount,bind,rw', '/']).returncode == 0"
    again = "import subprocess\nassert subprocess.run(['unshare', '-r', 'true']).returncode == 0"
    assert failure(remount) == failure(again) == "AssertionError"
    assert (tmp_path / "records.jsonl").read_text() == "a record"


def test_no_network(namespaces: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with socket.create_connection(address, timeout=1):  # from here, it can be had
            server.accept()[0].close()
        found = failure(f"import socket\nsocket.create_connection({address!r}, timeout=1)")
        assert found is not None and found.startswith("OSError: [Errno 101]")


def test_disk_is_limited(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    many = "for i in range({}):\n    with open(str(i), 'wb') as file: file.write(bytes(2**20))\n"
    assert failure(many.format(45)) is None
    found = failure(many.format(70))
    assert found is not None
    assert found.startswith("OSError: [Errno 28]" if way == "namespaces" else "more than 52428800 bytes")
    deep = "import os\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')"
    assert failure(deep) == (None if way == "namespaces" else "folders nested too deep")
    started = time.monotonic()
    empty = "for i in range(20_000): open(str(i), 'wb').close()"
    assert failure(empty) is not None and time.monotonic() - started < 10
    assert list(tmp_path.iterdir()) == []


def test_memory_of_all_processes_is_limited(way: str) -> None:
    program = (
        "import os, time\nfor _ in range(4):\n    if os.fork() == 0:\n        x = b'x' * (80 * 2**20); time.sleep(9)\n"
    )
    found = failure(program + "time.sleep(9)", memory=2**28)
    assert found == f"more than {2**28} bytes of memory in all processes"


def test_processes_are_limited(way: str) -> None:
    # 200 of them, which do nothing: as many as a machine that fails this test can bear.
    program = "import os, time\nfor _ in range(200):\n    if os.fork() == 0:\n        os.setsid(); time.sleep(20)\n"
    started = time.monotonic()
    assert failure(program + "time.sleep(20)") == "more than 64 processes"
    assert time.monotonic() - started < 10
    assert failure("assert True") is None


def test_a_killed_harness_leaves_no_process(way: str, tmp_path: Path) -> None:
    marker = f"killed-{way}-{os.getpid()}"
    program = (
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import time; time.sleep(60)', {marker!r}])"
    )
    code = f"import sys; sys.executable = {sys.executable!r}\nfrom lcbench.tasks.code_execution import failure\n"
    command = [real_python(), "-c", f"{code}failure({program!r}, timeout=30)"]
    with subprocess.Popen(command, env=os.environ | {"TMPDIR": str(tmp_path)}) as harness:
        wait_until(lambda: processes_with(f"sleep(60) {marker}") != [])
        harness.kill()
    wait_until(lambda: processes_with(f"sleep(60) {marker}") == [])


def real_python() -> str:
    return os.path.join(sys.prefix, "bin", "python")


def wait_until(holds: object, seconds: float = 20) -> None:
    assert callable(holds)
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
