"""seccomp.py CALLS PROGRAM [ARGUMENTS] - becomes PROGRAM under a filter like that of inferd.service.

CALLS, separated by commas, are allowed; any other gets EPERM. Memory may not be writable and
executable, as MemoryDenyWriteExecute wants it. Names that this machine does not know are none of its calls.
"""
import ctypes
import errno
import os
import sys

ALLOW, ERRNO = 0x7FFF0000, 0x00050000 | errno.EPERM
MASKED_EQUAL = 7
PROT_WRITE, PROT_EXEC = 2, 4
NR_SCMP_ERROR = -1


class Compare(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def must(code, what):
    if code != 0:
        sys.exit(f"seccomp: {what}: {os.strerror(-code)}")


def main():
    lib = ctypes.CDLL("libseccomp.so.2")
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_rule_add_array.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint,
                                           ctypes.POINTER(Compare)]
    lib.seccomp_load.argtypes = [ctypes.c_void_p]
    ctx = lib.seccomp_init(ERRNO)
    for name in sys.argv[1].split(","):
        nr = lib.seccomp_syscall_resolve_name(name.encode())
        if nr < 0:
            continue
        if name == "mmap":  # not writable, or not executable
            for bit in (PROT_WRITE, PROT_EXEC):
                rule = (Compare * 1)(Compare(2, MASKED_EQUAL, bit, 0))
                must(lib.seccomp_rule_add_array(ctx, ALLOW, nr, 1, rule), name)
        elif name in ("mprotect", "pkey_mprotect"):
            rule = (Compare * 1)(Compare(2, MASKED_EQUAL, PROT_EXEC, 0))
            must(lib.seccomp_rule_add_array(ctx, ALLOW, nr, 1, rule), name)
        else:
            must(lib.seccomp_rule_add_array(ctx, ALLOW, nr, 0, None), name)
    must(lib.seccomp_load(ctx), "load")  # sets no_new_privs too
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
