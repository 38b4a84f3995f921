"""dockerfile.py - reads a Dockerfile into stages of instructions; what is beyond ours is refused."""
import json
import re
import shlex

KNOWN = {"FROM", "ARG", "RUN", "ADD", "COPY", "WORKDIR", "ENV", "LABEL", "USER", "EXPOSE", "STOPSIGNAL",
         "HEALTHCHECK", "ENTRYPOINT", "CMD"}


class Stage:
    def __init__(self, base, name):
        self.base, self.name = base, name
        self.steps = []  # (instruction, text)

    def one(self, instruction):
        """The text of the only such instruction, or None."""
        found = [text for word, text in self.steps if word == instruction]
        if len(found) > 1:
            raise ValueError(f"{self.name}: {len(found)} x {instruction}")
        return found[0] if found else None

    def exec_form(self, instruction):
        """The words of an instruction in its form without a shell."""
        text = self.one(instruction)
        return None if text is None else json.loads(text[text.index("["):])

    def env(self):
        return self.pairs("ENV")

    def args(self):
        """What a build may say otherwise, with its defaults."""
        return self.pairs("ARG")

    def pairs(self, instruction):
        pairs = [shlex.split(text) for word, text in self.steps if word == instruction]
        return dict(p.split("=", 1) for words in pairs for p in words)


def read(path):
    with open(path) as f:
        lines = [line for line in f.read().splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    stages = []
    for line in filter(str.strip, text.splitlines()):
        word, rest = line.strip().split(None, 1)
        if word not in KNOWN:
            raise ValueError(f"{path}: {word} is not known here")
        if word == "FROM":
            m = re.fullmatch(r"(\S+) AS (\S+)", rest)
            if not m:
                raise ValueError(f"{path}: want FROM ... AS name, found {rest}")
            stages.append(Stage(*m.groups()))
        else:
            stages[-1].steps.append((word, re.sub(r"\s+", " ", rest)))
    return stages
