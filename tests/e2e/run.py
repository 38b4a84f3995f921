#!/usr/bin/env python3
"""run.py - the end-to-end suites: a real daemon, real sockets, the official clients.

    tests/e2e/run.py --binary build/release/inferd --model MODEL.gguf [--full]

The Python `openai` package comes from this interpreter, or from a virtual environment that is made
under build/e2e (INFERD_E2E_PYTHON names another interpreter). The Node `openai` package comes from
INFERD_E2E_NODE_MODULES, or is installed under build/e2e. What is missing is a failure; --no-node leaves
the Node suite out. Two things are skipped, and counted in the last line, where they are not: torch, which
is large (INFERD_E2E_TORCH_PYTHON names a Python that has it), and network namespaces, which containers forbid.
"""
import argparse
import importlib
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness  # noqa: E402

SUITES = ("start", "manager", "openai_python", "openai_node", "metrics", "bad_inputs", "batching",
          "kv8", "bench", "aborts", "kills", "ranks", "machines", "launchers", "rank_faults")


def use_python_with_openai():
    """Runs this program again under an interpreter that has the official client."""
    try:
        import openai  # noqa: F401
        return
    except ImportError:
        pass
    python = os.environ.get("INFERD_E2E_PYTHON")
    if not python:
        venv = os.path.join(harness.ROOT, "build", "e2e", "venv")
        python = os.path.join(venv, "bin", "python")
        if not os.path.exists(python):
            subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "openai==3.54.0"], check=True)
    if os.environ.get("INFERD_E2E_AGAIN"):
        sys.exit(f"e2e: {python} has no openai package")
    os.environ["INFERD_E2E_AGAIN"] = "1"
    os.execv(python, [python, *sys.argv])


def find_node_modules():
    """A folder with node_modules/openai in it."""
    given = os.environ.get("INFERD_E2E_NODE_MODULES")
    place = given or os.path.join(harness.ROOT, "build", "e2e", "node")
    if not os.path.isdir(os.path.join(place, "node_modules", "openai")):
        if given:
            sys.exit(f"e2e: no node_modules/openai in {given}")
        if not shutil.which("npm"):
            sys.exit("e2e: npm is needed for the Node suite (or --no-node)")
        os.makedirs(place, exist_ok=True)
        subprocess.run(["npm", "install", "--silent", "--prefix", place, "openai@6.49.0"], check=True)
    return place


def read_options():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--binary", default=os.path.join(harness.ROOT, "build", "release", "inferd"))
    p.add_argument("--model", default=os.environ.get("INFERD_TEST_MODEL"))
    p.add_argument("--engine", default="process", choices=("process", "local"))
    p.add_argument("--only", action="append", choices=SUITES, help="may repeat")
    p.add_argument("--no-node", action="store_true")
    p.add_argument("--aborts", type=int, default=300, help="disconnects of the storm")
    p.add_argument("--kills", type=int, default=6, help="kills of the engine under load")
    p.add_argument("--faults", type=int, default=6, help="faults of ranks under load")
    p.add_argument("--full", action="store_true", help="10000 aborts, 500 kills, 200 faults of ranks")
    o = p.parse_args()
    if not o.model:
        p.error("--model, or INFERD_TEST_MODEL, must name a GGUF file")
    if not os.path.exists(o.binary):
        p.error(f"no binary at {o.binary}: build first")
    if o.full:
        o.aborts, o.kills, o.faults = 10000, 500, 200
    o.suites = [s for s in SUITES if s in (o.only or SUITES)]
    if o.no_node and "openai_node" in o.suites:
        o.suites.remove("openai_node")
    of_processes = [s for s in ("kills", "ranks", "machines", "launchers", "rank_faults")
                    if s in o.suites]
    if o.engine == "local" and of_processes:
        if o.only:
            p.error("there is no process to kill with --engine local")
        o.suites = [s for s in o.suites if s not in of_processes]
        print("--engine local has no process to kill:", *of_processes, "are left out", flush=True)
    return o


def main():
    use_python_with_openai()
    options = read_options()
    if "openai_node" in options.suites:
        options.node_modules = find_node_modules()
    tally = harness.Tally()
    for suite in options.suites:
        module = importlib.import_module("suite_" + suite)
        suite_options = getattr(module, "OPTIONS", ())
        try:
            context = harness.Context(harness.start(options, suite_options), options)
        except harness.Failure as e:
            sys.exit(f"e2e: {e}")
        n_failed = len(tally.failed)
        try:
            tally.run_suite(module, context)
            if len(tally.failed) > n_failed:
                print(context.server.tail(8), flush=True)
        finally:
            tally.run(f"{suite}: the daemon stops cleanly", context.server.stop)
    print(tally.line())
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
