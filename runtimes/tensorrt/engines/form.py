"""Which of its three forms a graph is built in, and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from ....devices.rules import Violation, violations
from ....errors import GraphError, MissingError
from ....graph_passes.forms import compressor_nodes, no_plugin, to_inlined, without_plugin
from ....graph_passes.ir_tools.model_io import load_model
from ....plugins.library import needed
from ...bundle.manifest import Form
from ...bundle.reader import Bundle
from ..api import Kind, title

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class Choice:
    """A form.

    Attributes:
        form: the chosen one.
        why: the reason, in a few words.
        model: the graph in that form; external weights stay in their files.
        others: further forms that break no rule.
    """

    form: Form
    why: str
    model: ir.Model
    others: tuple[Form, ...]


def choose(
    bundle: Bundle, role: str, variant: str, asked: Form | None, kind: Kind, version: str, library: Path | None
) -> Choice:
    """Choose the form of a role's graph.

    Args:
        bundle: opened.
        role: of the graph.
        variant: its name.
        asked: by ``--form``; None: the plugin form where it needs no plugin or its library is here, else the portable
            one, else inlined.
        kind: of TensorRT.
        version: its version.
        library: the plugin library of this machine, which the plugin form runs with.

    Raises:
        RequestError: the plugin form was asked for, and a compressor neither has a plugin nor is fixed, or the bundle
            has no such form.
        GraphError: the form that was asked for, or every form, breaks a rule of that version; names node and rule.
        MissingError: the plugin form was asked for where it cannot be timed without its library.
    """
    with bundle.reading(role, "portable", variant) as path:
        portable = load_model(path)
    if not any(compressor_nodes(portable)):
        _require_no(violations(portable, kind, version), role, "portable", kind, version, ())
        return Choice("portable", "there is no compressor in it: all forms are this one", portable, ())
    models: dict[Form, ir.Model] = {"portable": portable, "inlined": to_inlined(portable)}
    if "plugin" in bundle.graph(role, variant).forms:
        with bundle.reading(role, "plugin", variant) as path:
            models = {"plugin": load_model(path), **models}
    plugins = needed(models["plugin"]) if "plugin" in models else []
    bare = bool(plugins) and library is None
    broken = {form: violations(model, kind, version) for form, model in models.items()}
    fit = tuple(form for form in models if not broken[form])
    if asked is not None:
        for method in without_plugin(portable) if asked == "plugin" else []:
            raise no_plugin(method)
        if asked not in models:
            bundle.model_path(role, asked, variant)  # raises, and lists the forms there are
        _require_no(broken[asked], role, asked, kind, version, fit)
        bare = bare and asked == "plugin"
        if bare and kind == "tensorrt":
            raise MissingError(
                f"the plugin form of {role} runs while it is built, and its plugin library is not on this machine",
                fix="Run: tokexport plugins build",
            )
        why = "as asked; without the plugin library, so it shows that it builds and cannot run" if bare else "as asked"
        return Choice(asked, why, models[asked], tuple(one for one in fit if one != asked))
    if "plugin" in fit and not plugins:
        return Choice("plugin", "it needs no plugin: its compressors are inlined", models["plugin"], fit[1:])
    if library is not None and "plugin" in fit:
        return Choice("plugin", f"its plugin library is here: {library.name}", models["plugin"], fit[1:])
    standard = [form for form in fit if form != "plugin"]
    if not standard:
        _require_no(broken["inlined"], role, "inlined", kind, version, fit)
    form = standard[0]
    if "plugin" not in models:
        reason = "the bundle has no plugin form of it"
    else:
        reason = "there is no plugin library here" if bare else f"plugin: {broken['plugin'][0].why}"
    if form == "inlined":
        reason += f"; portable: {broken['portable'][0].why}"
    return Choice(form, reason, models[form], tuple(one for one in fit if one != form))


def _require_no(
    found: list[Violation], role: str, form: str, kind: Kind, version: str, others: tuple[Form, ...]
) -> None:
    if not found:
        return
    first = found[0]
    node = f" {first.node!r}" if first.node else ""
    assert form in get_args(Form)
    fix = f"Use --form {others[0]}." if others else "Change that node where the model is made, or use another method."
    raise GraphError(
        f"{title(kind)} {version} cannot build the {form} form of {role}: {first.op}{node}: {first.why}",
        where=f"graph {role}",
        fix=fix,
    )
