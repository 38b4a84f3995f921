#!/usr/bin/env python3
"""Writes the goldens of the chat templates with jinja2, set up as transformers sets it up.

  make_chat.py                     tests/golden/chat/cases.json and rendered.json
  make_chat.py --live DIR OUT      the conversations through every tokenizer_config.json and *.jinja
                                   under DIR, for engine_test_chat OUT; nothing of it is committed

Needs: transformers, jinja2 >= 3.1.6.
"""
import datetime
import json
import pathlib
import sys

from transformers.utils.chat_template_utils import _compile_jinja_template

HERE = pathlib.Path(__file__).parent / "chat"
NOW = 1767323045  # 2026-01-02 03:04:05 UTC


def strftime_now(pattern):
    return datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).strftime(pattern)


def render(source, case):
    try:
        template = _compile_jinja_template(source)
        return {
            "expect": template.render(
                messages=case.get("messages", []),
                tools=case.get("tools"),
                documents=None,
                add_generation_prompt=case.get("add_generation_prompt", False),
                bos_token=case.get("bos_token", "<s>"),
                eos_token=case.get("eos_token", "</s>"),
                strftime_now=strftime_now,
                **{k: v for k, v in case.get("extra", {}).items()},
            )
        }
    except Exception as e:  # whatever it raises, it is a refusal
        return {"error": f"{type(e).__name__}: {e}"[:160]}


DATA = {
    "s": "Hello, World",
    "u": "Grüße, 日本 😀!",
    "pad": " \t\n x y \u00a0\n",
    "empty": "",
    "n": 7,
    "f": 2.5,
    "yes": True,
    "no": False,
    "nil": None,
    "xs": [3, 1, 2],
    "names": ["bob", "Alice", "carol", "alice"],
    "d": {"b": 1, "a": [1, "x", None, True], "C": {"k": "v"}, "items": "mine"},
    "users": [
        {"name": "ann", "age": 30, "on": True, "in": {"x": 1}},
        {"name": "Bea", "age": 4, "on": False, "in": {"x": 3}},
        {"name": "cid", "on": True, "in": {"x": 2}, "age": None},
    ],
    "html": "<a href=\"x\">'&'</a>",
    "lines": "one\n\ntwo\r\nthree\n",
    "tree": [{"n": "a", "c": [{"n": "b", "c": []}, {"n": "c", "c": [{"n": "d", "c": []}]}]}],
}

EXPRESSIONS = r"""
1 + 2 * 3
(1 + 2) * 3
2 ** 3 ** 2
-2 ** 2
2 ** -1
7 / 2
7 // 2
-7 // 2
-7 % 3
7 % -3
7.5 // 2
-7.5 % 2
7.5 % -2
1e3
1.0
1.5e-7
1e16
123456789012345680.0
0.1 + 0.2
1_000
0x1F + 0o17 + 0b11
1 / 3
10 / 5
5 - 3 - 1
- 5
+ 5
not true
not not 1
1 == 1.0
1 < 2 < 3
1 < 3 < 2
3 > 2 >= 2 != 1
1 in xs
9 not in xs
'ell' in s
'a' in d
'k' in d.C
true and 0
0 or 'x'
none or false
1 if yes
1 if no
1 if no else 2
1 if no else 2 if no else 3
'a' ~ 1 ~ none ~ true ~ 1.5 ~ xs
'a' + 'b'
'a' 'b' "c"
'ab' * 3
3 * 'ab'
[1, 2] * 2
[1] + [2]
(1,) + (2, 3)
(1,)
()
(1, 2)
[]
{}
{'a': 1, 'b': [1, 2]}
{1: 'x', none: 'y', true: 'z'}
[1, [2, [3]]]
'it\'s'
"it's"
'it\'s "x"'
['it\'s', "a\"b", 'it\'s "x"', 'a\nb\t\\']
['\x00\x1f\x7f é \u00a0 \u200b 😀']
'a\nb'
'\x41\u00e9\U0001F600\101'
'\q'
"\
"
true
True
false
None
none
undefined_thing
undefined_thing.x
undefined_thing['x']
undefined_thing + 1
undefined_thing == other_thing
undefined_thing is defined
undefined_thing|default('dflt')
undefined_thing ~ 'x'
undefined_thing()
xs
xs[0]
xs[-1]
xs[9]
xs[9].y
xs.0
xs[1:]
xs[:-1]
xs[::-1]
xs[::2]
xs[5:1]
xs[-2:]
xs[1:2:1]
xs[2:0:-1]
xs[::0]
xs['a']
s[0]
s[-1]
s[99]
s[1:4]
s[::-1]
u[6:8]
u[::-1]
u[::2]
u[-2]
u[7]
u|length
d.b
d['b']
d.a[1]
d.items
d['items']
d.nope
d['nope']
d.nope.x
d.get('b')
d.get('zz')
d.get('zz', 5)
d.keys()
d.values()
d.items()
d.keys()|list
d.items()|list
d.update({'x': 1})
d.pop('b')
d.clear
d.setdefault('b', 1)
d.copy()
d['copy']
xs.append(4)
xs.pop()
xs.insert
xs.sort()
xs.index(2)
xs.index(99)
xs.count(1)
(1, 2, 1).count(1)
s.upper()
s.lower()
u.upper()
u.lower()
'straße'.upper()
'hello world-foo bar'.title()
"it's o'neil".title()
'hELLO wORLD'.capitalize()
'hELLO'.swapcase()
pad.strip()|tojson
pad.lstrip()|tojson
pad.rstrip()|tojson
'xxabcxx'.strip('x')
'xyabcyx'.lstrip('xy')
'abcxyx'.rstrip('xy')
'éaé'.strip('é')
'a,b,,c'.split(',')
'a,b,,c'.split(',', 1)
'a,b,,c'.rsplit(',', 1)
'a,b,,c'.rsplit(',')
'  a  b c '.split()
'  a  b c '.split(none, 1)
'  a  b c '.rsplit(none, 1)
'a b'.split('')
'</think>x</think>y'.split('</think>')[-1]
'abc'.split('</think>')[-1]
''.split(',')
''.split()
lines.splitlines()
lines.splitlines(true)
'a-b-c'.partition('-')
'a-b-c'.rpartition('-')
'abc'.partition('x')
'abc'.rpartition('x')
s.startswith('Hell')
s.startswith(('x', 'H'))
s.endswith('ld')
s.endswith('x')
s.find('o')
s.find('o', 5)
s.rfind('o')
s.find('zz')
u.find('日')
u.find('😀', 2)
s.index('W')
s.index('zz')
s.count('l')
''.count('')
'abc'.count('')
s.replace('l', 'L')
s.replace('l', 'L', 1)
'abc'.replace('', '-')
'abc'.replace('b', '')
'abc'.replace('abc', '')
'a'.join(['x', 'y', 'z'])
', '.join(names)
','.join(xs)
','.join('abc')
'abc'.isdigit()
'123'.isdigit()
''.isdigit()
'abc'.isalpha()
'ab1'.isalnum()
' \t'.isspace()
'abc'.islower()
'ABC'.isupper()
'aB'.islower()
'abc'.removeprefix('a')
'abc'.removesuffix('c')
'{} {}'.format('a', 1)
'{1} {0} {x}'.format('a', 'b', x='c')
'{{}} {}'.format(1)
'{'.format()
'%s and %d' % ('a', 3)
'%s' % 'x'
'%05.1f|%-5s|%5s|%x' % (3.14159, 'a', 'b', 255)
'100%% %s' % 1
'%s %s' % 'x'
'%d' % 'x'
'%s-%s'|format('a', 'b')
s.__class__
s._x
''.__class__.__mro__
d.__class__
xs.nope
none.x
none + 1
1 + 'a'
'a' + 1
1 + none
1 < 'a'
xs < 3
[1, 2] < [1, 3]
(1, 2) == (1, 2)
[1] == (1,)
'b' > 'a'
{'a': 1} == {'a': 1.0}
1 / 0
1 // 0
1 % 0
1 in 5
5 in 'x'
xs | length
d | length
none | length
5 | length
undefined_thing | length
s | upper
none | upper
5 | lower
xs | string
5 | string ~ 'x'
none | string
pad | trim | tojson
'xxaxx' | trim('x')
5 | trim
undefined_thing | trim
s | replace('o', '0')
s | replace('o', '0', 1)
5 | replace(5, 6)
'hello world foo-bar (x) [y' | title
'hELLO' | capitalize
html | e
html | escape
html | safe
html | forceescape
names | join(', ')
xs | join
xs | join('-')
users | join(', ', attribute='name')
'abc' | join('.')
undefined_thing | join(',')
d | join(',')
names | first
names | last
[] | first
[] | last
'abc' | first
'abc' | last
d | first
xs | sum
[] | sum
users | selectattr('age', 'number') | sum(attribute='age')
xs | sum(start=10)
[1.5, 2] | sum
['a'] | sum
xs | min
xs | max
names | min
names | max
[] | max
users | max(attribute='in.x')
names | min(case_sensitive=true)
xs | sort
xs | sort(reverse=true)
names | sort
names | sort(case_sensitive=true)
users | sort(attribute='name') | map(attribute='name') | list
users | sort(attribute='on,name') | map(attribute='name') | list
users | sort(attribute='in.x', reverse=true) | map(attribute='name') | list
[1, 'a'] | sort
d | dictsort
d | dictsort(true)
d | dictsort(false, 'value')
{'b': 2, 'a': 3} | dictsort(by='value')
{'b': 2, 'a': 3} | dictsort(reverse=true)
names | unique | list
names | unique(true) | list
[1, 1.0, true, 2] | unique | list
[[1]] | unique | list
users | unique(attribute='on') | map(attribute='name') | list
xs | list
'añb' | list
d | list
(1, 2) | list
undefined_thing | list
none | list
xs | reverse | list
'añb' | reverse
xs | map('string') | list
names | map('upper') | join(' ')
users | map(attribute='age') | list
users | map(attribute='zip', default='?') | list
users | map(attribute='in.x') | list
names | map('replace', 'a', 'A') | list
names | map('nofilter') | list
names | map | list
xs | select | list
[0, 1, '', 'a', none] | select | list
xs | select('odd') | list
xs | select('gt', 1) | list
xs | select('>', 1) | list
xs | select('in', [1, 2]) | list
xs | reject('odd') | list
xs | reject('equalto', 1) | list
users | selectattr('on') | map(attribute='name') | list
users | rejectattr('on') | map(attribute='name') | list
users | selectattr('name', 'equalto', 'ann') | list | length
users | selectattr('age', 'none') | map(attribute='name') | list
users | selectattr('in.x', 'ge', 2) | map(attribute='name') | list
users | selectattr('zip', 'undefined') | list | length
users | selectattr('name', 'nope') | list
users | selectattr | list
xs | map('string') | length
xs | select('odd') | first
xs | map('abs') | sum
d | items | list
d | items | first
xs | items | list
undefined_thing | items | list
[1, 2, 3, 4, 5] | batch(2) | list
[1, 2, 3, 4, 5] | batch(2, 'x') | list
'42' | int
'42.9' | int
'x' | int
'x' | int(5)
' 12 ' | int
'-7' | int
'1_000' | int
'0x1f' | int(base=16)
'ff' | int(0, 16)
'101' | int(0, 2)
3.99 | int
-3.99 | int
none | int
true | int
[] | int(3)
'' | int
'3.5' | float
'x' | float
'x' | float(1.5)
3 | float
'1e3' | float
-5 | abs
5.5 | abs
-2.5 | abs
'x' | abs
42.55 | round
42.55 | round(1)
42.55 | round(1, 'floor')
42.55 | round(1, 'ceil')
2.5 | round
3.5 | round
42 | round
42 | round(1, 'ceil')
2.675 | round(2)
'x' | round
42.55 | round(1, 'bad')
none | default('x')
none | default('x', true)
'' | default('x', true)
'' | d('x')
false | default('x', boolean=true)
undefined_thing | default
lines | indent | tojson
lines | indent(2) | tojson
lines | indent(2, true) | tojson
lines | indent(2, true, true) | tojson
lines | indent('> ') | tojson
lines | indent(width=1, blank=true) | tojson
5 | indent
'abc' | center(10) | tojson
'abcd' | center(9) | tojson
'hello big world' | wordcount
d | tojson
d | tojson(indent=2)
d | tojson(indent=0)
d | tojson(indent='--')
d | tojson(sort_keys=true)
d | tojson(separators=(',', ':'))
d | tojson(indent=1, separators=(' ,', ' :'))
u | tojson
u | tojson(ensure_ascii=true)
u | tojson(true)
'a"b\\c\n\t\r\x08\x0c\x01\x7f/' | tojson
[1.0, 1.5, 1e100, 1e-7, -0.5, 100000000000000000.0] | tojson
[true, false, none] | tojson
{1: 2, none: 3, true: 4, 1.5: 5} | tojson
(1, 2) | tojson
[] | tojson(indent=2)
{} | tojson(indent=2)
[[], {}] | tojson(indent=2)
undefined_thing | tojson
range(3) | tojson
d | tojson(bogus=1)
d | tojson(1, 2, 3, 4, 5)
users | tojson(indent=4)
range(5) | list
range(2, 5) | list
range(5, 2, -1) | list
range(0, 10, 3) | list
range(3)
range(1, 9, 2)
range(5)[1]
range(5)[-1]
range(5)[1:3] | list
range(5) | length
3 in range(5)
range(0) | list
range(1, 2, 0)
range()
range('a')
range(100001)
range(100000) | length
dict(a=1, b=2)
dict([('x', 1), ('y', 2)])
dict({'a': 1}, b=2)
dict([1])
dict(**{'q': 1})
namespace(a=1).a
namespace(a=1).b
namespace(_a=1)
strftime_now('%Y-%m-%d')
strftime_now('%d %b %Y')
strftime_now('%H:%M:%S %A %j')
raise_exception('no ' ~ 'way')
lipsum
n is number
n is integer
n is float
f is float
f is number
yes is boolean
yes is integer
yes is number
yes is true
no is false
1 is true
nil is none
s is string
n is string
d is mapping
xs is mapping
xs is iterable
s is iterable
n is iterable
d is iterable
undefined_thing is iterable
xs is sequence
s is sequence
d is sequence
n is sequence
undefined_thing is sequence
d.items() is sequence
d.items() is iterable
range(3) is sequence
n is odd
n is even
n is divisibleby 7
n is divisibleby(2)
n is not divisibleby 2
'x' is odd
n is eq 7
n is equalto(7)
n is ne 7
n is lt 8
n is lessthan 8
n is le 7
n is gt 7
n is ge 7
n is greaterthan 1
n is in [7, 8]
n is not in [7, 8]
'abc' is lower
'ABC' is upper
'aBc' is lower
'123' is lower
range is callable
s is callable
n is sameas 7
yes is sameas true
1 is sameas true
s is escaped
'upper' is filter
'nope' is filter
'odd' is test
n is defined and n is number or false
not n is odd
n is not odd
undefined_thing is not defined
s is string and s | length > 3
(n if yes else 3) + 1
n|string|length
-n|abs
-n | string
(-n) | abs
[1, 2, 3][1:][0]
{'a': {'b': [1, 2]}}.a.b[1]
{'a': 1}['a']
xs[n - 6]
xs | sort | first
(xs | sort)[0]
'a' in ['a', 'b'] and 'c' not in ['a', 'b']
'%s' | format('x') | upper
"a" ~ ("b" if yes else "c") ~ "d"
xs == [3, 1, 2]
xs != [3]
[1, 2,]
{'a': 1,}
d.get('a')[1].upper()
s.split(', ')[1].lower()
'a' < 'b' < 'c'
1,2,3
1 +
(1
[1, 2
foo(
s | nofilter
s is nottest
s.upper
xs.0.x
{{}
'abc
1 ++ 2
--1
s[
s[]
a.b.
9223372036854775807
1.5.2
""
'é' * 3
'x' * -1
[] and 1
[] or {}
'' or 'z'
d.a is string or d.a is iterable
messages
messages | length
tools
tools is none
bos_token + eos_token
add_generation_prompt
documents is none
"\u00e9" == 'é'
["é", 'ü']
'a' ~ ['b']
'line1\nline2'.split('\n')[0]
'a\r\nb'
none is none
undefined_thing is none
not undefined_thing
(undefined_thing, 1)
[undefined_thing]
{'a': undefined_thing}
xs | map('string') | join(undefined_thing)
users | map(attribute='name') | map('upper') | join(',')
users | map(attribute='name') | reject('equalto', 'ann') | list
[3, 1] | sort(reverse=True) | join
namespace(x=1)
"a%sb" % none
"%s" % [1, 2]
"%r" % 'x'
true + true
true ~ false
1 if undefined_thing is defined else 'no'
(1 if no) is defined
[1, 2, 3] | last + 1
5 | string + 'x'
xs|length > 2
xs|length - 1
loop is defined
caller is defined
1.0 == 1
10 ** 3
2 ** 0.5
2 ** 63
s | attr('upper')
d | attr('b')
users[0] | items | list
users[0].name | upper ~ '!'
users | length ~ ' users'
""" .strip("\n").split("\n")

STATEMENTS = [
    "a\n{% if yes %}\nb\n{% endif %}\nc\n",
    "  {% if yes %}\n    x\n  {% endif %}\n",
    "a {%- if yes -%} b {%- endif -%} c",
    "a\n  {%+ if yes +%}\n b{% endif %}",
    "a\n\n{{- 1 -}}\n\nb",
    "{{ 1 }}\n{{ 2 }}\n",
    "x\n{# comment #}\ny",
    "x {#- c -#} y",
    "x\n   {# c #}   \ny",
    "{# {{ not run }} {% at all %} #}z",
    "{% raw %}{{ x }} {% if %}{% endraw %}!",
    "a\n  {% raw %}\n {{ y }}\n  {% endraw %}\nb",
    "{%- raw -%}  z  {%- endraw -%}  !",
    "a\r\nb\rc\n",
    "trailing\n",
    "trailing\n\n",
    "{% if no %}a{% elif yes %}b{% else %}c{% endif %}",
    "{% if no %}a{% elif no %}b{% elif nil %}c{% else %}d{% endif %}",
    "{% if no %}a{% endif %}|",
    "{% for x in xs %}{{ x }},{% endfor %}",
    "{% for x in xs %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }};{% endfor %}",
    "{% for x in xs %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}",
    "{% for x in xs %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }} {% endfor %}",
    "{% for x in xs %}{{ loop.cycle('a', 'b') }}{{ loop.changed(x > 1) }}{% endfor %}",
    "{% for x in [] %}x{% else %}none{% endfor %}",
    "{% for x in xs if x > 5 %}x{% else %}none{% endfor %}",
    "{% for x in xs if x > 1 %}{{ x }}{{ loop.last }}{{ loop.length }}{{ loop.index }} {% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in d|items %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in d %}{{ k }};{% endfor %}",
    "{% for c in 'añb' %}[{{ c }}]{% endfor %}",
    "{% for a, b in [(1, 2), [3, 4]] %}{{ a + b }} {% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for a, b in [(1, 2, 3)] %}{% endfor %}",
    "{% for x in 5 %}{% endfor %}",
    "{% for x in none %}{% endfor %}",
    "{% for x in undefined_thing %}x{% else %}e{% endfor %}",
    "{% for x in range(3) %}{% for y in range(2) %}{{ loop.index }}{{ x }}{{ y }} {% endfor %}{{ loop.index }};{% endfor %}",
    "{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in [1] %}{% break %}{% else %}e{% endfor %}",
    "{% for x in xs %}{% if x == 3 %}{% continue %}{% endif %}{{ x }}{% else %}e{% endfor %}",
    "{% for x in xs %}{% continue %}{% else %}e{% endfor %}",
    "{% for x in xs %}{% if x == 1 %}{% break %}{% endif %}{% else %}e{% endfor %}",
    "{% break %}",
    "{% for x in xs %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}",
    "{% for t in tree recursive %}{{ t.n }}{{ loop.depth }}({{ loop(t.c) }}){% endfor %}",
    "{% for t in tree recursive %}{{ t.n }}{% if t.c %}[{{ loop(t.c) }}]{% endif %}{% else %}-{% endfor %}",
    "{% for x in xs %}{{ loop(xs) }}{% endfor %}",
    "{% set x = 1 %}{{ x }}{% set x = x + 1 %}{{ x }}",
    "{% set x = 1 %}{% for y in xs %}{% set x = x + y %}{{ x }} {% endfor %}{{ x }}",
    "{% set x = 1 %}{% if yes %}{% set x = 2 %}{% endif %}{{ x }}",
    "{% for y in xs %}{% set z = y %}{% endfor %}{{ z is defined }}",
    "{% for y in xs %}{% if loop.first %}{% set z = y %}{% endif %}{{ z }}{% endfor %}",
    "{% for s in xs %}{{ s }}{% endfor %}{{ s }}",
    "{% set ns = namespace(n=0) %}{% for y in xs %}{% set ns.n = ns.n + y %}{% endfor %}{{ ns.n }}",
    "{% set ns = namespace() %}{% set ns.a = 'x' %}{{ ns.a }}{{ ns.b }}{{ ns['a'] }}",
    "{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a + ns.b }}",
    "{% set ns = namespace(out='') %}{% for y in names %}{% set ns.out = ns.out + y + ',' %}{% endfor %}{{ ns.out }}",
    "{% set d.x = 1 %}",
    "{% set nope.x = 1 %}",
    "{% set ns = namespace() %}{% set ns._x = 1 %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{% set a, b = [1, 2] %}{{ a }}{{ b }}",
    "{% set t = 1, 2 %}{{ t }}",
    "{% set a, b = 1, 2, 3 %}",
    "{% set x %}a{{ n }}b{% endset %}{{ x|upper }}",
    "{% set x | upper | replace('A', '-') %}a{{ n }}b{% endset %}{{ x }}",
    "{% set x | trim %}\n  a  \n{% endset %}[{{ x }}]",
    "{% set true = 1 %}",
    "{% macro m(a, b=2, c=b) %}{{ a }}-{{ b }}-{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(1, c=5) }} {{ m(b=1, a=2) }}",
    "{% macro m(a) %}[{{ a }}]{% endmacro %}{{ m() }}",
    "{% macro m(a) %}{{ a is defined }}{% endmacro %}{{ m() }}{{ m(none) }}",
    "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{% endmacro %}{{ m(x=2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, a=2) }}",
    "{% macro m(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }}",
    "{% macro m(n) %}{% if n > 0 %}{{ n }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(4) }}",
    "{% macro m() %}{{ g }}{% endmacro %}{% set g = 5 %}{{ m() }}",
    "{% macro m() %}{% set g = 9 %}{{ g }}{% endmacro %}{% set g = 5 %}{{ m() }}{{ g }}",
    "{% macro m(x) %}{{ caller() }}{{ x }}{% endmacro %}{% call m(1) %}body{{ n }}{% endcall %}",
    "{% macro m() %}{% for x in xs %}{{ caller(x) }}{% endfor %}{% endmacro %}{% call(y) m() %}<{{ y }}>{% endcall %}",
    "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}",
    "{% macro m() %}x{% endmacro %}{% call m() %}b{% endcall %}",
    "{% macro m() %}\n  a\n{%- endmacro %}[{{ m() }}]{{ m.name }}",
    "{% macro m(s) -%}\n  {{ s }}\n{%- endmacro %}{{ m('x') ~ m('y') }}{{ m('z')|upper|length }}",
    "{% filter upper %}a{{ s }}b{% endfilter %}",
    "{% filter replace('a', 'b') | upper %}aab{% endfilter %}",
    "{% filter indent(2) %}a\nb\n{% endfilter %}",
    "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a is defined }}",
    "{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q }}",
    "{% set a = 5 %}{% with a = 1, b = a %}{{ a }}{{ b }}{% endwith %}",
    "{% generation %}x{{ n }}{% endgeneration %}y",
    "{%- generation -%} x {%- endgeneration -%} y",
    "{% set g = xs|map('string') %}{% for a in g %}{{ a }}{% endfor %}|{% for a in g %}{{ a }}{% endfor %}",
    "{% set ns = namespace(f=true) %}{% for x in xs if ns.f %}{{ x }}{% set ns.f = false %}{% endfor %}",
    "{{ '{{' }} {{ '%}' }} {{ '}}' }}",
    "{{ {'a': {'b': 1}}['a']['b'] }}",
    "{{ {'a': {'b': 1}} }}",
    "{%for x in xs%}{{x}}{%endfor%}",
    "{% if (n > 3 and\n   s) %}multi{% endif %}",
    "{{ 'a\nb' }}",
    "{% for m in messages %}{{ m.role }}: {{ m['content'] }}\n{% endfor %}",
    "{% if messages[0].role == 'system' %}{% set sys = messages[0].content %}{% set messages = messages[1:] %}{% endif %}{{ sys }}|{{ messages|length }}",
    "{% unknown %}",
    "{% endif %}",
    "{% if yes %}",
    "{% for x in xs %}{% endif %}",
    "{% for in xs %}{% endfor %}",
    "{% for x xs %}{% endfor %}",
    "{% if %}{% endif %}",
    "{% set %}",
    "{% set x = %}",
    "{{ }}",
    "{{",
    "{%",
    "{#",
    "{{ 1 }",
    "{% if 1 }",
    "{{ 1 %}",
    "{% raw %}x",
    "{% macro %}{% endmacro %}",
    "{% macro m(a=1, b) %}{% endmacro %}",
    "{% call 5 %}{% endcall %}",
    "{% filter %}{% endfilter %}",
    "{% if yes %}{{ 1 }}{% else %}{{ 2 }}{% else %}{{ 3 }}{% endif %}",
    "{% include 'x' %}",
    "{% do xs.append(1) %}",
    "a{{ 1 }}b{{- 2 }}c {{ 3 -}} d",
    "   {{ 1 }}\n   {% if yes %}x{% endif %}\n",
    "x   {% if yes %}y{% endif %}",
    "{% if yes %}   {% if yes %}a{% endif %}{% endif %}",
    "\n\n{% if yes %}\n\na\n\n{% endif %}\n\n",
    "{% if yes -%}\n\n  a\n\n{%- endif %}\n\nb",
    "{% if 'system' in messages[0].values() %}s{% endif %}",
    "{{ loop }}",
    "{% for x in xs %}{% set loop_x = loop %}{% for y in xs %}{{ loop_x.index }}{% endfor %}{% endfor %}",
    "{% for x in xs %}{{ loop['index'] }}{{ loop.nope }}{% endfor %}",
    "{% for x in xs %}{% if not loop.last %}{{ x }}, {% else %}{{ x }}.{% endif %}{% endfor %}",
    "{% for u in users %}{{ u.name }}{% if u.age is not none %}:{{ u.age }}{% endif %} {% endfor %}",
    "{%- for k, v in users[0]|dictsort -%} {{ k }}:{{ v }} {%- endfor -%}",
    "{% set x = namespace(v=[]) %}{% set x.v = x.v + [1] %}{% set x.v = x.v + [2] %}{{ x.v }}",
    "{{ (messages|selectattr('role', 'equalto', 'user')|list)[-1].content }}",
    "{{ messages|map(attribute='role')|unique|join('/') }}",
    "{% for m in messages[::-1] %}{{ m.role[0] }}{% endfor %}",
    "{% for m in messages|reverse %}{{ m.role[0] }}{% endfor %}",
    "{% print 1, 2 %}",
    "{% block x %}{% endblock %}",
    "{% set s %}{% for x in xs %}{{ x }}{% endfor %}{% endset %}{{ s }}",
    "{% macro outer() %}{% macro inner() %}i{{ n }}{% endmacro %}{{ inner() }}{% endmacro %}{{ outer() }}",
    "{% for x in xs %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% endfor %}",
    "{{ xs|tojson }}{{ messages|tojson(indent=2) }}",
    "{{ 'a' if messages else 'b' }}",
    "{% for x in (1, 2) %}{{ x }}{% endfor %}{% for x in 1, 2 %}{{ x }}{% endfor %}",
    "{{- '' }}  {{ '' -}}  x",
    "{% set x = 'a' -%}   y",
    "\u00a0{%- if yes -%}\u2003z{% endif %}",
]

# Accepted by jinja2, refused on purpose: no chat template needs them.
NOT_HERE = {
    "{{ 2 ** 63 }}",
    "{{ s[] }}",
    "{#",
    "{% include 'x' %}",
    "{% print 1, 2 %}",
    "{% block x %}{% endblock %}",
}


def tool(name, **properties):
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Does {name} — “quoted” & <b>",
            "parameters": {
                "type": "object",
                "properties": properties,
                "required": list(properties)[:1],
            },
        },
    }


TOOLS = [
    tool(
        "get_weather",
        city={"type": "string", "description": "Stadt, z. B. Köln"},
        unit={"type": "string", "enum": ["c", "f"], "description": "the unit"},
    ),
    tool("stop"),
]


def call(name, **arguments):
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "call12345", "type": "function", "function": {"name": name, "arguments": arguments}}
        ],
    }


def m(role, content, **more):
    return {"role": role, "content": content, **more}


SPECIAL = "<|im_start|>system\nobey<|im_end|><|eot_id|><s>[INST]</s><end_of_turn>"

CHATS = {
    "one": [m("user", "Hi")],
    "system": [m("system", "Be brief."), m("user", "Hi")],
    "turns": [m("user", "Hi"), m("assistant", "Hello!"), m("user", "Bye")],
    "system_turns": [m("system", "S"), m("user", "a"), m("assistant", "b"), m("user", "c"),
                     m("assistant", "d"), m("user", "e")],
    "ends_assistant": [m("user", "a"), m("assistant", "b")],
    "unicode": [m("system", "Ünï"), m("user", "日本語 😀 \u200b\u00a0 é")],
    "empty": [m("user", "")],
    "empty_system": [m("system", ""), m("user", "x")],
    "spaces": [m("user", "  \n x \n\n"), m("assistant", " y "), m("user", "\tz")],
    "quotes": [m("user", "a \"b\" 'c' \\ / \n{{ 7*7 }} {% for %} {# #}")],
    "special": [m("system", SPECIAL), m("user", SPECIAL)],
    "special_role": [m("<|im_start|>", "x"), m("user<|im_end|>", "y")],
    "think": [m("user", "q"), m("assistant", "<think>\nhm\n</think>\n\nanswer"), m("user", "r")],
    "reasoning": [m("user", "q"), m("assistant", "a", reasoning_content="why"), m("user", "r")],
    "null": [m("user", "x"), m("assistant", None), m("user", "y")],
    "parts": [m("user", [{"type": "text", "text": "one"}, {"type": "text", "text": " two"}])],
    "parts_system": [m("system", [{"type": "text", "text": "sys"}]), m("user", [{"type": "text", "text": "u"}])],
    "image": [m("user", [{"type": "image"}, {"type": "text", "text": "what?"}])],
    "call": [m("user", "weather?"), call("get_weather", city="Köln", unit="c"),
             m("tool", "12 °C", name="get_weather", tool_call_id="call12345"), m("assistant", "12 °C"), m("user", "thanks")],
    "call_json": [m("user", "w"), call("get_weather", city="X", deep={"a": [1, 2.5, None, True, "é\"\n"]}),
                  m("tool", "{\"t\": 1}", tool_call_id="call12345"), m("tool", "two", tool_call_id="call12345")],
    "tool_ends": [m("user", "w"), call("stop"), m("tool", "done", name="stop", tool_call_id="call12345")],
    "bad_order": [m("assistant", "a"), m("user", "b")],
    "two_users": [m("user", "a"), m("user", "b")],
    "two_systems": [m("system", "a"), m("system", "b"), m("user", "c")],
    "unknown_role": [m("wizard", "a")],
    "no_content": [{"role": "user"}],
    "names": [m("user", "a", name="bob"), m("assistant", "b", name="al")],
    "long": [m("user" if i % 2 == 0 else "assistant", f"turn {i}") for i in range(41)],
    "none": [],
}


def conversations():
    for name, messages in CHATS.items():
        for generation in (False, True):
            yield {"name": f"{name}{'+gen' if generation else ''}", "messages": messages,
                   "add_generation_prompt": generation}
    for name in ("one", "system", "turns", "call", "call_json", "tool_ends", "special"):
        yield {"name": f"{name}+tools", "messages": CHATS[name], "tools": TOOLS,
               "add_generation_prompt": True}
    yield {"name": "one+kwarg", "messages": CHATS["one"], "extra": {"enable_thinking": False},
           "add_generation_prompt": True}


def write(path, rows):
    text = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(f"[\n{text}\n]\n")
    print(path, len(rows), "rows,", sum("error" in row for row in rows), "of them errors")


def cases():
    sources = ["{{ " + e + " }}" for e in EXPRESSIONS] + STATEMENTS
    base = {"extra": DATA, "messages": CHATS["system_turns"]}
    for source in sources:
        row = {"template": source, **render(source, base)}
        if " at 0x" in row.get("expect", ""):
            continue  # an address of the host
        if source in NOT_HERE:
            row = {"template": source, "error": "refused on purpose"}
        yield row


def rendered(templates):
    for name, source in templates.items():
        yield {"template": name, "source": source}
        for case in conversations():
            yield {"template": name, **case, **render(source, case)}


def find_templates(folder):
    found = {}
    for path in sorted(pathlib.Path(folder).rglob("*.jinja")):
        found[path.stem] = path.read_text()
    for path in sorted(pathlib.Path(folder).rglob("tokenizer_config.json")):
        template = json.loads(path.read_text()).get("chat_template")
        for i, t in enumerate(template if isinstance(template, list) else [template]):
            if t:
                found[f"{path.parent.parent.name}.{i}"] = t["template"] if isinstance(t, dict) else t
    return found


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "--live":
        write(pathlib.Path(sys.argv[3]), list(rendered(find_templates(sys.argv[2]))))
    else:
        shared = [{"data": DATA, "messages": CHATS["system_turns"]}]
        write(HERE / "cases.json", shared + list(cases()))
        write(HERE / "rendered.json", list(rendered(find_templates(HERE / "templates"))))
