"""promql.py - which metrics an expression names: what is left when all else of PromQL is taken out."""
import re

WORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "offset", "bool", "and", "or",
         "unless", "start", "end", "inf", "nan"}


def metrics(expr):
    expr = re.sub(r'"(\\.|[^"])*"|\'(\\.|[^\'])*\'', '""', expr)
    expr = re.sub(r"\{[^}]*\}", "", expr)
    expr = re.sub(r"\[[^\]]*\]", "", expr)
    expr = re.sub(r"\w+\s+(by|without)\s*\([^)]*\)", "", expr)
    expr = re.sub(r"\b(on|ignoring|group_left|group_right)\s*\([^)]*\)", r"\1", expr)
    names = re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?!\s*\()(?![a-zA-Z0-9_:])", expr)
    return {n for n in names if n.lower() not in WORDS}
