"""README, docs/ and their like: links lead somewhere, and what is not run is at least a command that there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from tokexport.devices import profiles
from tokexport.graph_passes.compressors import methods

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "docs/llms.txt", "llms.txt", ".github/**/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# In the tutorials of a new method and of CI.
OWN = ("latest", "$METHOD")
named = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())


def slug(heading: str) -> str:
    """What GitHub makes of a heading, and MyST after it."""
    words = re.sub(r"`|\[|\]\([^)]*\)", "", heading.strip()).lower()
    return re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


@named
def test_every_link_to_a_file_leads_to_one_and_to_a_heading_there(page):
    for link in LINK.findall(re.sub(r"`[^`]*`", "", prose(page))):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and target.is_relative_to(ROOT), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", prose(target), re.MULTILINE)
            assert anchor in map(slug, headings), link


def commands(page: Path) -> list[str]:
    """Lines of `sh` blocks and code in sentences that call the program, or what the README's table gives it."""
    lines = [line for kind, text in FENCE.findall(page.read_text()) if kind == "sh" for line in text.splitlines()]
    said = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]
    said = [f"tokexport model {code}" if re.match(r"\./\S+ --", code) else code for code in said]
    return [
        line
        for line in lines + said
        if line.startswith("tokexport ") and not re.search(r"\s-m\s|^tokexport [<:]", line)
    ]


def parsed(line: str) -> dict[str, object]:
    """Options as they are read, nothing of them looked up; `a|b` is `a`, and [NAME] is NAME.

    Raises:
        click.UsageError: there is no such command or option.
    """
    from tokexport.exporter.cli import main

    words = [re.sub(r"\\?\|.*", "", word).strip("[]") for word in shlex.split(line, comments=True)[1:]]
    found: click.Command = main
    context = click.Context(main)
    while isinstance(found, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        found = found.get_command(context, name) or pytest.fail(f"there is no command {name}: {line}")
        context = click.Context(found, parent=context, info_name=name)
    words = [word for word in words if word != "..."]
    # `--seam` alone in a sentence names the option.
    bare = [each for each in found.params if words and words[-1] in each.opts and not getattr(each, "is_flag", False)]
    given, _, _ = found.make_parser(context).parse_args([*words, *["NAME"] * bool(bare)])
    choices = {each.name: each.type for each in found.params if isinstance(each.type, click.Choice)}
    for name, choice in choices.items():
        for value in given.get(name) if isinstance(given.get(name), list) else [given.get(name)]:
            assert value is None or isinstance(value, bool) or value.isupper() or choice.convert(value, None, context)
    return given


@named
def test_every_command_that_is_shown_is_one_that_there_is(page):
    known = {method.name for method in methods()}
    devices = {found.name for found in profiles.known()[0]}
    for line in commands(page):
        given = parsed(line)
        asked = given.get("method") or []
        for method in asked if isinstance(asked, list) else [asked]:
            name = str(method).partition(":")[0]
            assert name in known or name in OWN or name.isupper(), line
        device = str(given.get("device") or "NAME").partition("@")[0]
        assert device in devices or device.isupper() or device.startswith(("sm_", "./", "FILE")), line


def test_commands_are_found_and_a_wrong_one_is_refused():
    assert sum(len(commands(page)) for page in PAGES) > 60
    for wrong in ("tokexport model --methd a", "tokexport run b --runtime onnx"):
        with pytest.raises(click.UsageError):
            parsed(wrong)


def test_every_page_of_the_site_is_in_its_contents_and_in_llms_txt():
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    listed = re.findall(
        r"^([\w-]+)$",
        "\n".join(re.findall(r"```{toctree}\n(.*?)```", (ROOT / "docs/index.md").read_text(), re.S)),
        re.M,
    )
    assert sorted(listed) == sorted(pages)
    assert {Path(link).stem for link in LINK.findall((ROOT / "docs/llms.txt").read_text())} >= pages
