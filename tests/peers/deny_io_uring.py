#!/usr/bin/env python3
"""deny_io_uring.py COMMAND...: runs a command to which io_uring_setup answers EPERM, as many containers have it."""
import ctypes
import os
import platform
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
IO_URING_SETUP = 425  # the same on x86_64 and aarch64
ALLOW, DENY = 0x7FFF0000, 0x00050000 | 1  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO | EPERM


def main():
    assert platform.machine() in ("x86_64", "aarch64"), platform.machine()
    program = b"".join(struct.pack("HBBI", *step) for step in (
        (0x20, 0, 0, 0),                # load the system call's number
        (0x15, 0, 1, IO_URING_SETUP),   # not this one: skip the next
        (0x06, 0, 0, DENY),
        (0x06, 0, 0, ALLOW),
    ))
    code = ctypes.create_string_buffer(program)
    filter_ = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 4, ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(filter_), 0, 0)):
        if libc.prctl(*(ctypes.c_ulong(word) for word in call)):
            sys.exit("prctl: " + os.strerror(ctypes.get_errno()))
    os.execv(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
