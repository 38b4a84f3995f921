#!/usr/bin/env python3
"""build_image.py - builds a target of the Dockerfile without a container runtime, as root.

    tests/deploy/build_image.py cpu --base FOLDER --downloads FOLDER --work FOLDER

Stages are overlays over --base, a bare Debian 12 (debootstrap --variant=minbase bookworm); RUN is a shell
in a chroot. What ADD fetches must lie in --downloads under its own name, and have its checksum. Prints
the folder of the image's root file system. For a look at what an image would have, and at whether
the instructions do what they say; minutes, so no part of tests/run.sh.
"""
import argparse
import hashlib
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import dockerfile  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

CERTIFICATES = "/var/tmp/certificates.pem"  # this machine's, which Debian's package would replace


def run(*argv, **more):
    subprocess.run(argv, check=True, **more)


class Built:
    """A stage whose instructions ran: its layers, lowest first, and where they are mounted."""

    def __init__(self, name, lowers, work):
        self.upper = os.path.join(work, name, "upper")
        self.root = os.path.join(work, name, "root")
        for d in ("upper", "overlay", "root"):
            os.makedirs(os.path.join(work, name, d))
        self.layers = lowers + [self.upper]
        if lowers:
            run("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={':'.join(reversed(lowers))},"
                f"upperdir={self.upper},workdir={os.path.join(work, name, 'overlay')}", self.root)
            run("mount", "-t", "proc", "proc", os.path.join(self.root, "proc"))
        else:
            run("mount", "--bind", self.upper, self.root)

    def unmount(self):
        subprocess.run(["umount", "-R", self.root], check=False)


def copy_context(into):
    """What git has, as .dockerignore leaves it."""
    names = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, check=True,
                           capture_output=True).stdout
    os.makedirs(into, exist_ok=True)
    tar = subprocess.Popen(["tar", "-c", "--null", "-T", "-"], cwd=ROOT, stdin=subprocess.PIPE,
                           stdout=subprocess.PIPE)
    untar = subprocess.Popen(["tar", "-x", "-C", into], stdin=tar.stdout)
    tar.stdin.write(names)
    tar.stdin.close()
    if tar.wait() or untar.wait():
        sys.exit("build_image: the tree cannot be copied")


def add(text, downloads, into):
    m = re.fullmatch(r"--checksum=sha256:([0-9a-f]{64}) (\S+) (\S+)", text)
    name = os.path.basename(m[2])
    with open(os.path.join(downloads, name), "rb") as f:
        data = f.read()
    if hashlib.sha256(data).hexdigest() != m[1]:
        sys.exit(f"build_image: {name} has another checksum")
    os.makedirs(os.path.dirname(into + m[3]), exist_ok=True)
    with open(into + m[3], "wb") as f:
        f.write(data)


def build(stage, built, o):
    lowers = {"scratch": [], "debian:12-slim": [o.base]}.get(stage.base) or (
        built[stage.base].layers if stage.base in built else [])
    b = Built(stage.name, lowers, o.work)
    built[stage.name] = b
    if stage.base == "debian:12-slim":  # how this machine reaches package registries
        for path in ("resolv.conf", "pip.conf", "apt/apt.conf.d"):
            if os.path.exists(f"/etc/{path}"):
                run("cp", "-rLT", f"/etc/{path}", f"{b.root}/etc/{path}")
        run("cp", "/etc/ssl/certs/ca-certificates.crt", b.root + CERTIFICATES)
    cwd = "/"
    for word, text in stage.steps:
        print(f"{stage.name}: {word} {text:.100}", file=sys.stderr, flush=True)
        if word == "WORKDIR":
            cwd = text
            os.makedirs(b.root + cwd, exist_ok=True)
        elif word == "ADD":
            add(text, o.downloads, b.root)
        elif word == "COPY" and text == ". .":
            copy_context(b.root + cwd)
        elif word == "COPY":
            m = re.fullmatch(r"--from=(\S+) (\S+) (\S+)", text)
            run("cp", "-a", f"{built[m[1]].root}{m[2]}/.", b.root + m[3])
        elif word == "RUN":
            run("chroot", b.root, "/bin/sh", "-c", f"cd {cwd} && {text}", stdout=sys.stderr,
                env={**stage.args(), "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                     "DEBIAN_FRONTEND": "noninteractive", "HOME": "/root",
                     "PIP_CERT": CERTIFICATES})


def needed(stages, target):
    """The stages that `target` is made of, in order."""
    by_name = {s.name: s for s in stages}
    names = {target}
    for s in reversed(stages):
        if s.name in names:
            names.add(s.base)
            names |= {m[1] for word, text in s.steps if word == "COPY"
                      for m in re.finditer(r"--from=(\S+)", text)}
    return [by_name[s.name] for s in stages if s.name in names]


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("target")
    for name in ("base", "downloads", "work"):
        p.add_argument(f"--{name}", required=True)
    o = p.parse_args()
    # Mounts end with this process, whatever ends it, and no folder with mounts in it is removed.
    if os.environ.get("INFERD_IMAGE_NAMESPACE") != "1":
        os.environ["INFERD_IMAGE_NAMESPACE"] = "1"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, *sys.argv])
    o.base, o.work = os.path.abspath(o.base), os.path.abspath(o.work)
    if os.path.exists(o.work):
        p.error(f"{o.work} is there already: remove it, or name another")
    built = {}
    try:
        for stage in needed(dockerfile.read(os.path.join(ROOT, "Dockerfile")), o.target):
            build(stage, built, o)
    finally:
        for b in built.values():
            b.unmount()
    print(built[o.target].upper)


if __name__ == "__main__":
    main()
