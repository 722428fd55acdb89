"""How names, numbers and lists of `schema.py` are written in C."""

from __future__ import annotations


def camel_case(name: str) -> str:
    """KcenterMerge for kcenter_merge."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def c_limit(limit: int | str) -> str:
    """A limit in C: a number, or the constant of a name in `schema.LIMITS`."""
    return f"TOKEXPORT_MAX_{limit}" if isinstance(limit, str) else str(limit)


def c_float(value: float) -> str:
    """A literal of type float."""
    return f"{float(value)!r}f"


def c_list(opens: str, items: list[str], closes: str, width: int = 120) -> list[str]:
    """Lines of a list in brackets, broken between its items where it is too long for one."""
    lines = [opens]
    for place, item in enumerate(items):
        text = item + (closes if place == len(items) - 1 else ",")
        if lines[-1] == opens:
            lines[-1] += text
        elif len(f"{lines[-1]} {text}") <= width:
            lines[-1] += f" {text}"
        else:
            lines.append(" " * len(opens) + text)
    return lines
