"""The unit files: systemd takes them without a word, they expose little, and the daemon works within them.

The sandbox's system call filter is the one part that can be tried without a running systemd: it is made
from the unit's own lines, and the daemon serves under it.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

import tools
from harness import Server, check, equal

EXPOSURE_MAX = 2.0  # reliability target of the front; the unit holds the engine too


class Root:
    """A root folder with systemd's units, ours, and what they start."""

    def __init__(self, c, cuda):
        self.dir = tempfile.TemporaryDirectory(prefix="inferd-units-")
        self.units = os.path.join(self.dir.name, "usr/lib/systemd/system")
        shutil.copytree("/usr/lib/systemd/system", self.units, symlinks=True)
        for name in ("inferd.service", "inferd.socket"):
            shutil.copy(tools.path("deploy", name), self.units)
        if cuda:
            shutil.copytree(tools.path("deploy", "inferd.service.d"), os.path.join(self.units, "inferd.service.d"))
        os.makedirs(os.path.join(self.dir.name, "usr/bin"))
        os.symlink("usr/lib", os.path.join(self.dir.name, "lib"))
        shutil.copy(c.options.binary, os.path.join(self.dir.name, "usr/bin/inferd"))
        shutil.copy("/bin/kill", os.path.join(self.dir.name, "usr/bin/kill"))

    def analyze(self, *words):
        return tools.say("systemd-analyze", f"--root={self.dir.name}", *words)


def about_ours(said):
    """Lines on our units; those of systemd's own may lack programs in this root."""
    return [line for line in said.splitlines() if "inferd" in line and "sysinit" not in line]


def lines_of(name):
    return [line for line in tools.read("deploy", name).splitlines() if re.match(r"\w+=", line)]


def value(key, name="inferd.service"):
    found = [line.split("=", 1)[1] for line in lines_of(name) if line.startswith(key + "=")]
    check(len(found) == 1, key, "is there", len(found), "times")
    return found[0]


def seconds(text):
    m = re.fullmatch(r"(\d+)(s|min)", text)
    return int(m[1]) * {"s": 1, "min": 60}[m[2]]


def verify(c, cuda):
    root = Root(c, cuda)
    said = root.analyze("verify", "--man=no", "inferd.service", "inferd.socket")[1]
    equal(about_ours(said), [], "systemd-analyze verify")


def test_systemd_has_no_complaint(c):
    verify(c, cuda=False)


def test_systemd_has_no_complaint_of_the_cuda_drop_in(c):
    verify(c, cuda=True)


def test_a_misspelt_line_would_be_a_complaint(c):
    root = Root(c, cuda=False)
    with open(os.path.join(root.units, "inferd.service"), "a") as f:
        f.write("[Service]\nMemoryDenyWriteExcute=yes\n")
    said = root.analyze("verify", "--man=no", "inferd.service")[1]
    check(any("MemoryDenyWriteExcute" in line for line in about_ours(said)), said)


def test_a_gpu_adds_the_family_that_nccl_asks_for_interfaces_by(c):
    """systemd adds the lines up."""
    equal(value("RestrictAddressFamilies"), "AF_UNIX AF_INET AF_INET6", "without a GPU")
    equal(value("RestrictAddressFamilies", "inferd.service.d/cuda.conf"), "AF_NETLINK", "with one")


def exposure(c, cuda):
    said = Root(c, cuda).analyze("security", "--offline=true", "inferd.service")[1]
    m = re.search(r"Overall exposure level for inferd.service: ([\d.]+)", said)
    check(m, said)
    return float(m[1])


def test_the_exposure_is_within_the_target(c):
    plain, cuda = exposure(c, False), exposure(c, True)
    c.say(f"systemd-analyze security: {plain} on a CPU, {cuda} with a GPU")
    check(plain <= EXPOSURE_MAX and cuda <= EXPOSURE_MAX, plain, cuda, "above", EXPOSURE_MAX)


def test_times_and_limits_fit_the_daemons(c):
    text = tools.say(c.options.binary, "config", env={})[1]
    option = {k: v for k, v in re.findall(r"(?m)^([a-z-]+) = (\d+)$", text)}
    check(seconds(value("TimeoutStopSec")) * 1000 >= int(option["drain-timeout-ms"]) + 5000,
          "the manager would end a drain")
    check(int(value("LimitNOFILE")) >= int(option["max-connections"]) + 512, "LimitNOFILE")
    equal(value("Type"), "notify", "Type")
    equal(value("ListenStream", "inferd.socket"), f"{re.search('host = (.*)', text)[1]}:{option['port']}",
          "the socket's address")


def filter_of(*lines):
    """What stays allowed after lines of SystemCallFilter=, as systemd merges them."""
    allowed = set()
    for line in lines:
        deny, names = line.startswith("~"), line.lstrip("~").split()
        calls = set()
        for name in names:
            if name.startswith("@"):
                said = tools.say("systemd-analyze", "syscall-filter", name)[1]
                inner = [w for w in said.split() if re.fullmatch(r"@?[a-z_0-9-]+", w) and w != name]
                words = [re.sub(r"#.*", "", row).strip() for row in said.splitlines()[1:]]
                calls |= filter_of(*(w for w in words if w)) if inner else set()
            else:
                calls.add(name)
        allowed = allowed - calls if deny else allowed | calls
    return allowed


def test_the_daemon_serves_under_the_units_filter(c):
    rows = [line.split("=", 1)[1] for line in lines_of("inferd.service") if line.startswith("SystemCallFilter=")]
    allowed = filter_of(*rows)
    check(200 < len(allowed) < 400 and "mount" not in allowed and "setpriority" not in allowed,
          len(allowed), "calls")
    with tempfile.TemporaryDirectory(prefix="inferd-filter-") as d:
        # A program that puts the filter over itself and becomes the daemon.
        wrapper = os.path.join(d, "inferd")
        with open(wrapper, "w") as f:
            f.write(f"#!/bin/sh\nexec {sys.executable} {tools.path('tests', 'deploy', 'seccomp.py')} "
                    f"{','.join(sorted(allowed))} {c.options.binary} \"$@\"\n")
        os.chmod(wrapper, 0o755)
        server = Server(wrapper, c.options.model, "--kv-memory", "128MiB")
        for i in range(10):
            status, answer = server.post("/v1/completions",
                                         {"model": "test-model", "prompt": f"{i} and", "max_tokens": 4})
            equal(status, 200, "status", answer)
        with open(f"/proc/{server.pid}/status") as f:
            status = f.read()
        check("Seccomp:\t2" in status and "NoNewPrivs:\t1" in status, "no filter is in force")
        server.stop()
    killed = subprocess.run([sys.executable, tools.path("tests", "deploy", "seccomp.py"),
                             ",".join(sorted(allowed)), "/bin/mount", "-t", "tmpfs", "x", "/mnt"],
                            capture_output=True, text=True)
    check(killed.returncode != 0, "mount works under the filter")
