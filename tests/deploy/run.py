#!/usr/bin/env python3
"""run.py - checks everything that deploys inferd, without a cluster or a container runtime.

    tests/deploy/run.py --binary build/release/inferd --model MODEL.gguf [--only SUITE]

Each suite holds one kind of file against the schema or the tool that will read it, and against what the
daemon really has: its options, its metrics, its exit codes. What is missing is a failure, never a skip.
"""
import argparse
import importlib
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "e2e")]
import tools  # noqa: E402

SUITES = ("conf", "systemd", "dockerfile", "compose", "kubernetes", "machines", "prometheus", "grafana")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--binary", default=tools.path("build", "release", "inferd"))
    p.add_argument("--model", default=os.environ.get("INFERD_TEST_MODEL"))
    p.add_argument("--only", action="append", choices=SUITES, help="may repeat")
    o = p.parse_args()
    if not o.model or not os.path.exists(o.binary):
        p.error("want --model, and a binary: build first")
    tools.run_in_venv()
    tools.install_node_packages()
    import harness
    tally = harness.Tally()
    context = harness.Context(None, o)
    for suite in SUITES:
        if suite in (o.only or SUITES):
            tally.run_suite(importlib.import_module("check_" + suite), context)
    print(tally.line())
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
