"""The Dockerfile: hadolint takes it, and its images need neither root, nor a shell, nor a writable disk."""
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import dockerfile
import tools
from harness import check, equal

IMAGES = ("cpu", "cuda")


def stages():
    return {s.name: s for s in dockerfile.read(tools.path("Dockerfile"))}


def test_hadolint_has_no_complaint(c):
    hadolint = os.path.join(tools.VENV, "bin", "hadolint")
    equal(tools.say(hadolint, tools.path("Dockerfile")), (0, ""), "hadolint")
    code, said = tools.say(hadolint, "-", input=tools.read("Dockerfile").replace(
        "--no-install-recommends", ""))
    check(code != 0 and "DL3015" in said, "hadolint takes everything:", said)


def test_the_images_are_empty_but_for_what_was_installed(c):
    for name in IMAGES:
        s = stages()[name]
        equal(s.base, "scratch", name, "base")
        equal([w for w, _ in s.steps if w in ("RUN", "ADD")], [], name, "instructions that want a shell")
        equal(s.one("USER"), "65532:65532", name, "user")


def test_the_default_target_is_for_cpus(c):
    equal(list(stages())[-1], "cpu", "last stage")


def test_what_is_run_is_run_without_a_shell(c):
    for name in IMAGES:
        s = stages()[name]
        equal(s.exec_form("ENTRYPOINT"), ["/usr/bin/inferd"], name, "entry point")
        words = s.exec_form("HEALTHCHECK")
        equal(words, ["/usr/bin/inferd", "health"], name, "health check")
        said = tools.say(c.options.binary, "--help")[1]
        for word in (words[1], s.exec_form("CMD")[0]):
            check(f"  inferd {word} " in said, word, "is no subcommand")


def test_the_environment_is_options_of_the_daemon(c):
    for name in IMAGES:
        ours = {k: v for k, v in stages()[name].env().items() if k.startswith("INFERD_")}
        said = tools.say(c.options.binary, "config", env=ours)[1]
        for key, value in ours.items():
            option = key[7:].lower().replace("_", "-")
            check(re.search(rf"(?m)^{option} = {re.escape(value)}$", said), key, "has no effect:", said)


def test_what_is_fetched_has_a_checksum_and_a_version(c):
    """hadolint says nothing of these two."""
    for s in stages().values():
        for word, text in s.steps:
            if word == "ADD":
                check(re.match(r"--checksum=sha256:[0-9a-f]{64} https://", text), text)
            if word == "RUN" and "pip install" in text:
                names = text[text.index("pip install"):].split("&&")[0].split()[2:]
                equal([n for n in names if not n.startswith("-") and "==" not in n], [], "without version")


def test_what_is_not_in_git_is_not_in_the_build(c):
    ignored = tools.read(".dockerignore").split()
    for name in ("build", "models", ".git"):
        check(name in ignored, name, "goes to the builder")


def test_the_image_for_gpus_has_code_for_all_of_them_and_nccl(c):
    s = stages()["build-cuda"]
    equal(s.args(), {"CUDA_ARCHS": "all"}, "what a build may say")
    build = " ".join(text for word, text in s.steps if word == "RUN")
    check('-DINFERD_CUDA_ARCHS="$CUDA_ARCHS"' in build, "the module's code:", build)
    check("nvidia-nccl-cu13==" in build and "image-root.sh /image cuda " in build, "NCCL:", build)
    archs = re.search(r'STREQUAL "all"\)\n  set\(cuda_archs ([^)]*)\)', tools.read("cmake", "cuda.cmake"))[1]
    for arch in archs.split():
        check(f"| `{arch}` |" in tools.read("docs", "deploy.md"), arch, "is not in docs/deploy.md")


def test_an_image_root_gets_nccl_and_what_it_loads(c):
    """The script itself, with libraries of this machine in place of the module's and NCCL's."""
    with tempfile.TemporaryDirectory() as d:
        root, site, tree = (os.path.join(d, name) for name in ("root", "site", "tree"))
        for folder in ("root/usr/bin", "root/usr/lib/inferd", "site/nvidia/nccl/lib", "tree", "libmicrohttpd",
                       "site/nvidia_nccl_cu13-1.dist-info/licenses"):
            os.makedirs(os.path.join(d, folder))
        shutil.copy(c.options.binary, f"{root}/usr/bin/inferd")
        for to in (f"{root}/usr/lib/inferd/libinferd_cuda.so", f"{site}/nvidia/nccl/lib/libnccl.so.2"):
            subprocess.run(["gcc", "-shared", "-x", "c", "/dev/null", "-o", to, "-Wl,--no-as-needed", "-lm"],
                           check=True)
        for to in (f"{site}/nvidia_nccl_cu13-1.dist-info/licenses/License.txt", f"{d}/libmicrohttpd/COPYING",
                   f"{tree}/LICENSE"):
            with open(to, "w") as f:
                f.write("a licence\n")
        said = tools.say(tools.path("deploy", "image-root.sh"), root, "cuda", site, cwd=tree)
        equal(said, (0, ""), "image-root.sh")
        libs = os.listdir(next(Path(root, "usr/lib").glob("*-linux-gnu")))
        for name in ("libnccl.so.2", "libm.so.6", "libc.so.6", "libuv.so.1"):
            check(name in libs, name, "is not among", libs)
        check("libinferd_cuda.so" not in libs, "the module is there twice")
        check(os.path.exists(f"{root}/usr/share/doc/libnccl2/copyright"), "NCCL's licence")
