import { describe, expect, it } from "vitest";
import { parseLosslessJson } from "../lossless-json.ts";
import { detectContentFormat } from "./content-format.ts";
import { parseTemplate } from "./template.ts";
import { TemplateRaised, TemplateUnsupported, type Value } from "./values.ts";

const now = () => new Date(2026, 2, 5, 9, 30, 0);

function render(source: string, variables: string = "{}"): string {
  const parsed = parseLosslessJson(variables);
  const names = new Map<string, Value>();
  if (parsed instanceof Map) for (const [name, value] of parsed) names.set(name, value);
  return parseTemplate(source, now).render(names);
}

describe("templates print what Jinja2 3.1.6 prints", () => {
  it.each([
    ["{{ true }} {{ none }} {{ 1 }} {{ 1.0 }} {{ missing }}|", "True None 1 1.0 |"],
    ["{{ [1, 'a', \"it's\", none] }} {{ {'a': 'b'} }} {{ (1, 2) }}", "[1, 'a', \"it's\", None] {'a': 'b'} (1, 2)"],
    ["{{ '\\n  a '.lstrip('\\n') }}|{{ 'xxaxx'.strip('x') }}|{{ 'ab'.rstrip('b') }}", "  a |a|a"],
    ["{{ '' == false }} {{ '0' == 0 }} {{ 1 == 1.0 }} {{ none == missing }} {{ 1 == true }}", "False False True False True"],
    ["{{ [1, {'a': 2}] == [1, {'a': 2}] }} {{ {'a': 1} in [{'a': 1}] }}", "True True"],
    ["{{ (1 == 1) != (2 == 3) }}", "True"],
    ["{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 70 }}", "3 -4 2 3.5 1180591620717411303424"],
    ["{{ '😀a' | length }} {{ '😀a'[1] }} {{ '😀ab'[:2] }} {{ 'abc'[::-1] }}", "2 a 😀a cba"],
    ["{{ 'hELLO wORLD' | capitalize }} {{ \"it's a-b\" | title }} {{ \"it's\".title() }}", "Hello world It's A-B It'S"],
    ["{{ [3, 1, 2] | sort | join(', ') }} {{ ['b', 'A'] | sort }}", "1, 2, 3 ['A', 'b']"],
    ["{{ {'b': 1, 'a': 2} | dictsort }} {{ {'a': {'b': 1}}.a.b }}", "[('a', 2), ('b', 1)] 1"],
    ["{{ 'a-b-c'.split('-', 1) }} {{ ' a  b '.split() }} {{ 'a-b-c'.rsplit('-', 1) }}", "['a', 'b-c'] ['a', 'b'] ['a-b', 'c']"],
    ["{{ missing | default('x') }} {{ '' | default('x', true) }} {{ none | default('x') }}", "x x None"],
    ["{% for x in [1, 2, 3] if x != 2 %}{{ loop.index }}:{{ x }}{{ '' if loop.last else ', ' }}{% endfor %}", "1:1, 2:3"],
    ["{% for k, v in {'a': none, 'b': 1}.items() %}{{ k }}={{ v }};{% endfor %}", "a=None;b=1;"],
    ["{% set ns = namespace(n=none) %}{% for i in range(3) %}{% set ns.n = i %}{% endfor %}{{ ns.n }}", "2"],
    ["{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{% endfor %}{{ x }}", "1"],
    ["{% macro m(a, b=none, c='z') %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(none) }} {{ m(1, c=none) }}", "NoneNonez 1NoneNone"],
    ["{% macro w() %}<{{ caller() }}>{% endmacro %}{% call w() %}x{% endcall %}", "<x>"],
    ["{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "02"],
    ["{% if [] | selectattr('a') %}lazy filters are true{% endif %}", "lazy filters are true"],
    ["{% set g = [1, 2] | map('string') %}{{ g | join }}{{ g | join }}", "12"],
    ["{{ '<'|safe + '<' }} {{ '<' | safe ~ '<' }}", "<&lt; <<"],
    ["{{ 'a{}b{0}{x}{{}}'.format(1, x=none) }}", null],
    ["{{ '{}-{}'.format(1, 'a') }}", "1-a"],
    ["{{ strftime_now('%d %b %Y %H:%M:%S %j %A') }}", "05 Mar 2026 09:30:00 064 Thursday"],
    ["a\r\n{% if true %}\r\nb\r\n{% endif %}", "a\nb\n"],
    ["  {% if true %}\nx\n  {% endif %}\ny", "x\ny"],
    ["{% generation %}x{% endgeneration %}", "x"],
    ["{{ messages[0].get('a') }} {{ messages[0].get('b', 'd') }} {{ messages[0]['zz'] is defined }}", "None d False"],
  ])("%j", (source, expected) => {
    if (expected === null) expect(() => render(source)).toThrow(TemplateRaised);
    else expect(render(source, '{"messages": [{"a": null}]}')).toBe(expected);
  });

  it("prints JSON as Python's json.dumps", () => {
    const data = '{"x": {"s": "é\\n\\u007f<\\"", "f": 1.0, "e": 1e16, "n": null, "10": [], "9": {}, "nan": NaN}}';
    expect(render("{{ x | tojson }}", data)).toBe(
      '{"s": "é\\n\u007f<\\"", "f": 1.0, "e": 1e+16, "n": null, "10": [], "9": {}, "nan": NaN}',
    );
    expect(render("{{ x.s | tojson(ensure_ascii=true) }}", data)).toBe('"\\u00e9\\n\\u007f<\\""');
    expect(render("{{ {'a': [1, {}], 'b': []} | tojson(indent=2) }}")).toBe('{\n  "a": [\n    1,\n    {}\n  ],\n  "b": []\n}');
    expect(render("{{ {'b': 1, 'a': 2} | tojson(separators=(',', ':'), sort_keys=true) }}")).toBe('{"a":2,"b":1}');
  });
});

describe("templates fail where Jinja2 fails", () => {
  it.each([
    "{{ missing.x }}",
    "{{ {'a': 1}.b.c }}",
    "{{ 'a' + 1 }}",
    "{{ missing() }}",
    "{{ [1].append(2) }}",
    "{{ raise_exception('no') }}",
    "{{ 1 < 'a' }}",
    "{{ 'x' in 1 }}",
    "{{ [1] | map('string') | tojson }}",
    "{{ [1] | map('string') | length }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ range(1000000) | list }}",
  ])("%j", (source) => {
    expect(() => render(source)).toThrow(TemplateRaised);
  });
});

describe("what is not reproduced is refused, not guessed", () => {
  it.each([
    "{% raw %}x{% endraw %}",
    "{%+ if true %}x{% endif %}",
    "{{ 1 < 2 < 3 }}",
    "{{ x | urlize }}",
    "{{ x is sameas }}",
    "{% include 'x' %}",
    "{{ 'a'.encode() }}",
    "{{ '%s' % 1 }}",
    "{{ [1] | map('string') }}",
  ])("%j", (source) => {
    expect(() => render(source)).toThrow(TemplateUnsupported);
  });
});

describe("detectContentFormat", () => {
  it.each([
    ["{% for m in messages %}{{ m.content }}{% endfor %}", "string"],
    ["{% for m in messages %}{% for c in m['content'] %}{{ c.text }}{% endfor %}{% endfor %}", "openai"],
    ["{% set ms = messages[1:] %}{% for m in ms %}{% for c in m.content | list %}x{% endfor %}{% endfor %}", "openai"],
    ["{% set ns = namespace() %}{% set ns.ms = messages %}{% for m in ns.ms %}{% for c in m.content %}x{% endfor %}{% endfor %}", "openai"],
    ["{% macro r(parts) %}{% for p in parts %}x{% endfor %}{% endmacro %}{% for m in messages %}{{ r(m.content) }}{% endfor %}", "openai"],
    ["{% for m in messages %}{% set calls = m.content %}{% for c in calls %}x{% endfor %}{% endfor %}", "string"],
    ["{% for t in tools %}{% for c in t.content %}x{% endfor %}{% endfor %}", "string"],
  ])("%j is %s", (source, format) => {
    expect(detectContentFormat(parseTemplate(source, now).program)).toBe(format);
  });
});
