"""tensorrt/methods.cpp: what each plugin has of its own - its attributes, its inputs, its two entry points."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .c_names import c_float, c_limit, c_list, camel_case
from .schema import (
    PLUGINS,
    Attribute,
    Choice,
    Dtype,
    Flag,
    Grid,
    Input,
    Integer,
    Number,
    Parameter,
    Plugin,
    Signal,
    Width,
)

_DTYPES = {"tokens": "kOfTokens", "float32": "kFloat32", "any": "kAnyFloat"}
_RETURN = "        return tokexport_"


def shells(notice: str) -> str:
    """The file, which begins with `notice`."""
    lines = [f"// {notice}", '#include "method.h"', "", "namespace tokexport::shell {", "namespace {"]
    known: dict[int, str] = {}
    registered = []
    for method, plugin in PLUGINS.items():
        if id(plugin) not in known:
            known[id(plugin)] = camel_case(method)
            lines += ["", *_shell(camel_case(method), plugin)]
        registered.append(f'const Registered<{known[id(plugin)]}> {method}("Tokexport{camel_case(method)}");')
    ends = ["", "}  // namespace", "}  // namespace tokexport::shell", ""]
    return "\n".join([*lines, "", *registered, *ends])


def _shell(name: str, plugin: Plugin) -> list[str]:
    parameters = plugin.kernel.parameters
    members = [f"int32_t {one.name};" for one in plugin.more]
    members += [f"tokexport_{plugin.entry}_params params;"] if parameters else []
    lines = [f"struct {name} : Method {{", *(f"    {member}" for member in members), *([""] if members else [])]
    lines += [f"    {line}" for line in _constructor(name, plugin)]
    if plugin.signals:
        lines += ["", *(f"    {line}" for line in _signals(plugin))]
    of_call = [one for one in parameters if isinstance(one, Dtype | Width)]
    given = ["&call.shape"]
    if of_call:
        lines += ["", f"    tokexport_{plugin.entry}_params of(const Call& call) const {{", "        auto p = params;"]
        for one in of_call:
            fact = "dtype" if isinstance(one, Dtype) else "dim"
            lines.append(f"        p.{one.name} = call.{fact}_of({one.input});")
        lines += ["        return p;", "    }"]
    given += ["&p" if of_call else "&params"] if parameters else []
    first = ["        const auto p = of(call);"] if of_call else []
    inputs = ["call.tokens", *_pointers(plugin), "call.outputs", "call.workspace", "call.stream"]
    calls = {
        "workspace(const Call& call, size_t* bytes)": c_list(
            f"{_RETURN}{plugin.entry}_workspace(", [*given, "bytes"], ");"
        ),
        "enqueue(const Call& call)": c_list(f"{_RETURN}{plugin.entry}(", [*given, *inputs], ");"),
    }
    for signature, call in calls.items():
        lines += ["", f"    int {signature} const override {{", *first, *call, "    }"]
    return [*lines, "};"]


def _pointers(plugin: Plugin) -> Iterator[str]:
    """The kernel's inputs: those of the node, and null for what no node gives."""
    for place in range(len(plugin.kernel.inputs)):
        yield f"call.data_of({place})" if place < len(plugin.signals) else "nullptr"


def _constructor(name: str, plugin: Plugin) -> list[str]:
    if not plugin.attributes:
        return [f"explicit {name}(Attributes&) {{}}"]
    made = [f"{one.name}({_reader(one)})" for one in plugin.more]
    if plugin.kernel.parameters:
        values = [_value(one, plugin) for one in plugin.kernel.parameters]
        made.append("\n".join(c_list("params{", values, "}", width=110)).replace("\n", "\n" + " " * 6))
    return (f"explicit {name}(Attributes& given)\n    : " + ",\n      ".join(made) + " {}").split("\n")


def _value(one: Parameter, plugin: Plugin) -> str:
    """Of a member when the plugin is made; what depends on the call comes later."""
    if isinstance(one, Choice) and one.name in plugin.preset:
        return one.enum.constant(plugin.preset[one.name])
    return _reader(one) if isinstance(one, Attribute) else "0"


def _reader(one: Attribute) -> str:
    if isinstance(one, Integer):
        return f'given.integer("{one.name}", {one.least}, {c_limit(one.most)})'
    if isinstance(one, Flag):
        return f'given.flag("{one.name}")'
    if isinstance(one, Number):
        return f'given.number("{one.name}", {c_float(one.least)}, {c_float(one.most)})'
    if isinstance(one, Grid):
        return "grid_of(given)"
    words = ", ".join(f'"{word}"' for word in one.enum.words)
    return f'given.choice("{one.name}", {{{words}}})'


def _signals(plugin: Plugin) -> list[str]:
    lines = ["std::vector<Signal> signals() const override {", "    std::vector<Signal> read;"]
    for signal, given in zip(plugin.signals, plugin.kernel.inputs):
        push = f"read.push_back({{{', '.join(_description(signal, given, plugin))}}});"
        if signal.when:
            attribute = _attribute(plugin, signal.when[0])
            push = f"if ({_member(plugin, attribute)} == {attribute.enum.words.index(signal.when[1])}) {push}"
        lines.append(f"    {push}")
    return [*lines, "    return read;", "}"]


def _description(signal: Signal, given: Input, plugin: Plugin) -> Iterator[str]:
    """The members of `Signal` in method.h, as many as say something."""
    names = [signal.name]
    if found := re.search(r"\{(\w+)\}", signal.name):
        choice = _attribute(plugin, found[1])
        names = [signal.name.replace(found[0], word) for word in choice.enum.words]
        last = f'"{names[-1]}"'
        for code, name in reversed([*enumerate(names[:-1])]):
            last = f'{_member(plugin, choice)} == {code} ? "{name}"\n{" " * 24}: {last}'
        yield last
    else:
        yield f'"{signal.name}"'
    yield f"Signal::Dtype::{_DTYPES[given.kind]}"
    if signal.rows or signal.count:
        yield "true" if signal.rows else "false"
    if signal.count:
        yield f"params.{signal.count}"


def _attribute(plugin: Plugin, name: str) -> Choice:
    (found,) = [one for one in plugin.attributes if one.name == name]
    assert isinstance(found, Choice), name
    return found


def _member(plugin: Plugin, one: Choice) -> str:
    return one.name if one in plugin.more else f"params.{one.name}"
