"""Writes what follows from `schema.py` into the files of this folder: ``python -m tokexport.plugins.generate``.

Whole files: structs.py, kernels/parameters.h, tensorrt/methods.cpp. Blocks between two markers, the rest of the file
being written by hand: kernels/tokexport_kernels.h, tensorrt/README.md.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

from .c_names import c_float, c_limit, c_list, camel_case
from .generate_shells import shells
from .schema import (
    DTYPE,
    ENUMS,
    KERNELS,
    LIMITS,
    PLUGINS,
    STRUCTS,
    Attribute,
    Choice,
    Constant,
    Dtype,
    Enum,
    Flag,
    Grid,
    Integer,
    Number,
    Parameter,
    Signal,
    Width,
)

FOLDER = Path(__file__).parent
COMMAND = "python -m tokexport.plugins.generate"
_NOTICE = f"Generated from plugins/schema.py by `{COMMAND}`: do not edit."
_CTYPES = {"int32_t": "c_int32", "float": "c_float", "size_t": "c_size_t"}
_CTYPE = {Integer: "int32_t", Flag: "int32_t", Choice: "int32_t", Number: "float", Grid: "tokexport_grid"}


def members(parameters: tuple[Parameter, ...]) -> dict[str, tuple[str, str]]:
    """The members of a kernel's structure: name -> its type in C, and what it is."""
    return {one.name: (_CTYPE.get(type(one), "int32_t"), _domain_in_c(one)) for one in parameters}


def _domain_in_c(one: Parameter) -> str:
    if isinstance(one, Integer):
        return f"{one.least} to {c_limit(one.most)}" + (f", {one.note}" if one.note else "")
    if isinstance(one, Flag):
        return "0 or 1"
    if isinstance(one, Number):
        return f"{one.least:g} to {one.most:g}"
    if isinstance(one, Choice):
        return f"TOKEXPORT_{one.enum.prefix}_*"
    if isinstance(one, Width):
        return f"1 to {c_limit('DIM')}" + (", or 0" if one.optional else "")
    if isinstance(one, Constant):
        return f"0 to {c_limit(one.most)}, {one.note}"
    return "one of the dtypes, even where nothing is read" if isinstance(one, Dtype) else ""


def structs() -> str:
    """structs.py."""
    lines = [
        '"""The structures and limits of kernels/tokexport_kernels.h, for ctypes.',
        "",
        _NOTICE,
        '"""',
        "",
        "from __future__ import annotations",
        "",
        "import ctypes",
        "from ctypes import c_float, c_int32, c_size_t, c_void_p",
        "",
        f"DTYPES = {{{', '.join(f'{chr(34)}{word}{chr(34)}: {code}' for code, word in enumerate(DTYPE.words))}}}",
        *(f"MAX_{name} = {limit}" for name, limit in LIMITS.items()),
    ]
    for name in ("shape", "outputs", "workspace"):
        lines += _ctypes_class(name, f"tokexport_{name}", STRUCTS[name])
    for name, kernel in KERNELS.items():
        if kernel.parameters:
            lines += _ctypes_class(name, f"tokexport_{name}_params", members(kernel.parameters))
    named = [name for name, kernel in KERNELS.items() if kernel.parameters]
    lines += ["", "", "PARAMETERS: dict[str, type[ctypes.Structure]] = {"]
    lines += [f'    "{name}": {camel_case(name)},' for name in named]
    return "\n".join([*lines, "}", ""])


def _ctypes_class(name: str, c_name: str, content: dict[str, tuple[str, str]]) -> list[str]:
    flat: dict[str, str] = {}
    for member, (kind, _) in content.items():
        # A grid lies in a structure as its three members do.
        inner = {name: kind for name, (kind, _) in STRUCTS["grid"].items()}
        flat.update(inner if kind == "tokexport_grid" else {member: kind})
    fields = [f'        ("{member}", {_CTYPES.get(kind, "c_void_p")}),' for member, kind in flat.items()]
    head = ["", "", f"class {camel_case(name)}(ctypes.Structure):", f'    """{c_name}."""', ""]
    return [*head, "    _fields_ = [", *fields, "    ]"]


def header() -> str:
    """The block of tokexport_kernels.h: limits, codes, structures and entry points."""
    lines = [f"#define {c_limit(name)} {limit}" for name, limit in LIMITS.items()]
    lines += ["", *(_c_enum(enum) for enum in ENUMS)]
    for name, content in STRUCTS.items():
        lines += ["", *_c_struct(f"tokexport_{name}", content)]
    for name, kernel in KERNELS.items():
        lines += ["", *_c_comment(f"{name}: {kernel.about}")]
        if kernel.parameters:
            lines += [*_c_struct(f"tokexport_{name}_params", members(kernel.parameters))]
        given = ["const tokexport_shape* shape"]
        given += [f"const tokexport_{name}_params* params"] if kernel.parameters else []
        kinds = {"float32": "float"}
        read = [f"const {kinds.get(one.kind, 'void')}* {one.name}" for one in kernel.inputs]
        ends = ["tokexport_outputs outputs", "tokexport_workspace workspace", "tokexport_stream stream"]
        lines += ["", *c_list(f"int tokexport_{name}_workspace(", [*given, "size_t* bytes"], ");")]
        lines += c_list(f"int tokexport_{name}(", [*given, "const void* tokens", *read, *ends], ");")
    return "\n".join(lines)


def _c_enum(enum: Enum) -> str:
    return f"enum {{ {', '.join(f'{enum.constant(word)} = {code}' for code, word in enumerate(enum.words))} }};"


def _c_struct(name: str, content: dict[str, tuple[str, str]]) -> list[str]:
    inner = [f"    {kind} {member};" + (f" /* {what} */" if what else "") for member, (kind, what) in content.items()]
    return ["typedef struct {", *inner, f"}} {name};"]


def _c_comment(text: str) -> list[str]:
    return textwrap.wrap(f"/* {text} */", 120, subsequent_indent=" * ", break_long_words=False, break_on_hyphens=False)


def checks() -> str:
    """kernels/parameters.h."""
    lines = [
        f"// {_NOTICE}",
        "//",
        "// Whether each parameter is within its limits. What depends on the shape or on two of them a kernel checks.",
        "#pragma once",
        "",
        '#include "tokexport_kernels.h"',
        "",
        "namespace tokexport {",
        "",
        "inline bool is_dtype(int dtype) { "
        f"return dtype >= {DTYPE.constant(DTYPE.words[0])} && dtype <= {DTYPE.constant(DTYPE.words[-1])}; }}",
    ]
    for name, kernel in KERNELS.items():
        if kernel.parameters:
            lines += ["", f"inline int check_parameters(const tokexport_{name}_params& p) {{"]
            if not any(_check(one) for one in kernel.parameters):
                lines[-1] = lines[-1].replace("& p)", "&)")
            lines += [f"    {line}" for one in kernel.parameters for line in _check(one)]
            lines += ["    return TOKEXPORT_OK;", "}"]
    return "\n".join([*lines, "", "}  // namespace tokexport", ""])


def _check(one: Parameter) -> list[str]:
    """A statement that returns a status where a parameter is outside; none for a grid, which goes with the shape."""
    p, status = f"p.{one.name}", "BAD_PARAMETER"
    if isinstance(one, Integer):
        bad, status = f"{p} < {one.least} || {p} > {c_limit(one.most)}", one.status
    elif isinstance(one, Constant):
        bad = f"{p} < 0 || {p} > {c_limit(one.most)}"
    elif isinstance(one, Flag):
        bad = f"{p} != 0 && {p} != 1"
    elif isinstance(one, Number):
        bad = f"!({p} >= {c_float(one.least)} && {p} <= {c_float(one.most)})"
    elif isinstance(one, Choice):
        words = one.enum.words
        bad = f"{p} < {one.enum.constant(words[0])} || {p} > {one.enum.constant(words[-1])}"
    elif isinstance(one, Width):
        bad, status = f"{p} < {0 if one.optional else 1} || {p} > {c_limit('DIM')}", "BAD_DIM"
    elif isinstance(one, Dtype):
        bad, status = f"!is_dtype({p})", "BAD_DTYPE"
    else:
        return []
    return [f"if ({bad}) return TOKEXPORT_{status};"]


def table() -> str:
    """The block of tensorrt/README.md."""
    limits = {name: f"{limit:,}" for name, limit in LIMITS.items()}
    rows: dict[str, list[str]] = {}
    for method, plugin in PLUGINS.items():
        signals = "; ".join(map(_signal_in_words, plugin.signals))
        domains = "; ".join(map(_domain_in_words, plugin.attributes))
        rows.setdefault(f"{signals} | {domains}", []).append(f"`Tokexport{camel_case(method)}`")
    return "\n".join(
        [
            f"B is at most {limits['BATCH']}, N at most {limits['TOKENS']} and D at most {limits['DIM']}.",
            "",
            "| plugin | signals | attributes beside `keep` (K, 1 to N) |",
            "|---|---|---|",
            *(" ".join(f"| {', '.join(names)} | {row} |".split()) for row, names in rows.items()),
        ]
    )


def _signal_in_words(signal: Signal) -> str:
    name = signal.name.replace("{", "<").replace("}", ">")
    return f"`{name}`" + (f" where `{signal.when[0]}` is {signal.when[1]}" if signal.when else "")


def _domain_in_words(one: Attribute) -> str:
    if isinstance(one, Integer):
        most = f"{LIMITS[one.most]:,}" if isinstance(one.most, str) else str(one.most)
        return f"`{one.name}` {one.least} to {most}" + (f", {one.note}" if one.note else "")
    if isinstance(one, Flag):
        return f"`{one.name}` 0, 1"
    if isinstance(one, Number):
        return f"`{one.name}` {one.least:g} to {one.most:g}"
    return f"`{one.name}` {', '.join(one.enum.words)}" if isinstance(one, Choice) else f"`{one.name}`"


_WHOLE: dict[str, Callable[[], str]] = {
    "structs.py": structs,
    "kernels/parameters.h": checks,
    "tensorrt/methods.cpp": lambda: shells(_NOTICE),
}
# File -> how a comment begins and ends there, and the block.
_BLOCKS: dict[str, tuple[str, str, Callable[[], str]]] = {
    "kernels/tokexport_kernels.h": ("/*", "*/", header),
    "tensorrt/README.md": ("<!--", "-->", table),
}


def generated(folder: Path) -> Iterator[tuple[Path, str]]:
    """Each file and what it must be; around a block it stays as it is in `folder`.

    Raises:
        ValueError: a file lacks one of the two markers around its block.
    """
    for name, make in _WHOLE.items():
        yield folder / name, make()
    for name, (opens, closes, make) in _BLOCKS.items():
        begin, end = f"{opens} {_NOTICE} {closes}\n", f"{opens} End of what is generated. {closes}\n"
        text = (folder / name).read_text()
        head, found, rest = text.partition(begin)
        tail = rest.partition(end)
        if not tail[1]:
            raise ValueError(f"{name} lacks the line {(end if found else begin).strip()}")
        yield folder / name, f"{head}{begin}{make()}\n{end}{tail[2]}"


def main() -> None:
    """Write every file that is not as it must be, and name it."""
    for path, text in [*generated(FOLDER)]:
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
            print(path.relative_to(FOLDER))


if __name__ == "__main__":
    main()
