"""deploy/inferd.conf: every option of the daemon's table, explained, with its default, and nothing else; and the
manual page: every subcommand."""
import re
import tempfile

import tools
from harness import check, equal

LINE = re.compile(r"#([a-z0-9-]+) =(?: (.*))?")


def options_of_help(c):
    """[(name, default)] of the one table, in its order."""
    text = tools.say(c.options.binary, "--help")[1]
    text = text[text.index("\nModel:\n"):]
    rows = re.findall(r"^  --([a-z0-9-]+) [^\n]+\n        ([^\n]+)$", text, re.M)
    check(len(rows) > 30, "options in --help", len(rows))
    return [(name, m[1] if (m := re.search(r" \[([^\]]*)\]$", help_)) else "") for name, help_ in rows]


def options_of_file():
    return [(m[1], m[2] or "") for line in tools.read("deploy", "inferd.conf").splitlines()
            if (m := LINE.fullmatch(line))]


def config(c, text, *options):
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as f:
        f.write(text)
        f.flush()
        return tools.say(c.options.binary, "config", "--config", f.name, *options, env={})


def uncommented():
    return LINE.sub(lambda m: m[0][1:], tools.read("deploy", "inferd.conf"))


def test_the_file_lists_the_options_of_the_table_with_their_defaults(c):
    want, got = options_of_help(c), options_of_file()
    missing = [o for o in want if o not in got]
    extra = [o for o in got if o not in want]
    equal((missing, extra), ([], []), "deploy/inferd.conf, (missing, not in the table)")
    equal([n for n, _ in got], [n for n, _ in want], "order")


def test_each_option_is_explained(c):
    blocks = tools.read("deploy", "inferd.conf").split("\n\n")
    options = [b.splitlines() for b in blocks if LINE.fullmatch(b.rstrip("\n").splitlines()[-1])]
    equal(len(options), len(options_of_file()), "options that stand alone")
    for lines in options:
        text = " ".join(line[2:] for line in lines[:-1] if line.startswith("# "))
        check(len(text) > 10 and text.endswith("."), lines[-1], "is not explained:", repr(text))


def test_the_file_loads_as_it_is_and_changes_nothing(c):
    equal(config(c, tools.read("deploy", "inferd.conf")), config(c, ""), "options in force")


def test_the_file_loads_with_every_line_in_force_and_says_the_defaults(c):
    text = uncommented()
    equal(len(re.findall(r"(?m)^[a-z]", text)), len(options_of_file()), "lines in force")
    equal(config(c, text), config(c, ""), "options in force")


def test_a_wrong_name_in_the_file_is_refused(c):
    code, said = config(c, uncommented().replace("max-seqs =", "max-sqs ="))
    check(code == 2 and 'did you mean "max-seqs"' in said, code, said)


def test_the_manual_has_every_subcommand_and_no_other(c):
    said = re.findall(r"(?m)^  inferd (\w+) ", tools.say(c.options.binary, "--help")[1])
    check("serve" in said and len(said) > 4, said)
    synopsis, described = re.search(r"(?s)\.SH SYNOPSIS\n(.*?)\n\.SH DESCRIPTION\n(.*?)\n\.SH ",
                                    tools.read("deploy", "inferd.8")).groups()
    equal(re.findall(r"(?m)^\.B inferd (\w+)$", synopsis), said, "synopsis")
    for name in said:
        check(f".B inferd {name}\n" in described, name, "is not described")
