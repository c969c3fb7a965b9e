"""The system calls of Linux that Python lacks. All raise OSError with the call's name; elsewhere they do nothing."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

DISK = 50 * 2**20  # bytes of all files
FILES = 10_000
DEPTH = 500  # of folders in folders: a walk that stays within the recursion limit and the longest path sees all of them

# linux/sched.h, linux/mount.h, linux/prctl.h, linux/capability.h; the number is the same on all machines but Alpha
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER = 0x20000, 0x08000000, 0x10000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_BIND, MS_PRIVATE = 0x1, 0x2, 0x4, 0x1000, 0x40000
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 0x1
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
CAPABILITY_VERSION_3, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 0x20080522, 1 << 1, 1 << 2

LINUX = sys.platform == "linux"


def set_apart(isolated: bool) -> None:
    """New namespaces (users, network, IPC; of processes for the children), or else adopt all orphans of children.

    The user stays the same in them. This process and its forks no longer show their memory and descriptors in /proc to
    processes without the privilege to trace.
    """
    if not LINUX:
        return
    if isolated:
        user, group = os.geteuid(), os.getegid()
        _call("unshare", CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    else:
        _call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)


def end_with_parent() -> None:
    """This process is killed when its parent ends."""
    if LINUX:
        _call("prctl", PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def mount(folder: str) -> None:
    """Mounts of this process and its children: all read-only, an empty file system in memory on the folder.

    /proc is hidden for the memory of processes that can be read there, /run for the sockets of the system's services.
    """
    with contextlib.suppress(OSError), open("/proc/sys/user/max_user_namespaces", "w") as file:
        file.write("0")  # no namespaces within these, where a program would have privileges again
    _call("unshare", CLONE_NEWNS)
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY, 0, MS_PRIVATE, 0)  # struct mount_attr; Linux 5.12
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    _call("syscall", ctypes.c_long(MOUNT_SETATTR), AT_FDCWD, b"/", AT_RECURSIVE, ctypes.byref(attributes), size)
    for hidden in ("/proc", "/run"):
        if os.path.isdir(hidden) and not folder.startswith(f"{hidden}/"):
            _call("mount", b"tmpfs", hidden.encode(), b"tmpfs", ctypes.c_ulong(MS_RDONLY), b"size=4k")
    options = f"size={DISK},nr_inodes={FILES},mode=700".encode()
    _call("mount", b"tmpfs", os.fsencode(folder), b"tmpfs", ctypes.c_ulong(MS_NOSUID | MS_NODEV), options)
    os.chdir(folder)
    if os.path.isdir("/dev/shm"):  # what multiprocessing shares counts as files of the folder
        _call("mount", os.fsencode(folder), b"/dev/shm", None, ctypes.c_ulong(MS_BIND), None)


def drop_privileges(isolated: bool) -> None:
    """No privileges are gained by executing a file any more; those within namespaces are gone, as are root's.

    Without namespaces root keeps its rights to files, which Python may need to read itself. Raises: OSError, too, where
    it does so within namespaces, in which these rights are none.
    """
    if not LINUX:
        return
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    header, sets = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    _call("capget", ctypes.byref(header), ctypes.byref(sets))
    kept = 0 if isolated else CAP_DAC_OVERRIDE | CAP_DAC_READ_SEARCH
    for number in range(6):  # effective, permitted and inheritable: the lower halves, then the upper ones
        sets[number] &= kept if number < 2 else 0
    _call("capset", ctypes.byref(header), ctypes.byref(sets))
    for folder in sys.path if isolated else ():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.listdir(folder)


def _call(name: str, *arguments: object) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
