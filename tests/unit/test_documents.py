"""The documents stay true: links lead somewhere, and what a reader is told to type exists."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer

from aloraserve.settings import Settings
from aloraserve_services.cli.main import app

ROOT = Path(__file__).parents[2]
README_WORDS = 800
EXAMPLE_LINES = 60
LINK = re.compile(r"\]\((?![a-z]+:)([^)\s]*)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:^|[`/]|\$ )aloraserve ([a-z][^`\n|#;&)]*)", re.MULTILINE)
FILE = re.compile(r"`([a-z_][\w./-]*/[\w.-]*\.(?:py|lua|md|ya?ml|json|txt|ini))`")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


DOCUMENTS = sorted(
    document
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "examples/*.md",
        "loadtests/*.md",
        "helm/*/*.md",
        "platform/vllm-alora/*.md",
    )
    for document in ROOT.glob(pattern)
)


@cache
def anchors(document: Path) -> frozenset[str]:
    """Return the anchors of a document's headings, as GitHub and the site make them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", document.read_text("utf-8")), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found.add(next(name for name in _numbered(slug) if name not in found))
    return frozenset(found)


def _numbered(slug: str) -> Iterator[str]:
    yield slug
    yield from (f"{slug}-{number}" for number in range(1, 100))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(document: Path) -> None:
    for link in LINK.findall(FENCE.sub("", document.read_text("utf-8"))):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.is_file(), f"{link} leads to no file"
        assert not anchor or anchor in anchors(target), f"{link} leads to no heading"


@pytest.mark.parametrize(
    "document",
    [document for document in DOCUMENTS if "adr" not in document.parts],
    ids=lambda document: str(document.relative_to(ROOT)),
)
def test_files_that_are_named_exist(document: Path) -> None:
    rooms = (
        "",
        "platform/aloraserve",
        "services/aloraserve_services",
        "platform/vllm-alora",
        "platform/vllm-alora/vllm_alora",
    )
    places = [document.parent, ROOT / "deploy" / "observability", *(ROOT / room for room in rooms)]
    for name in FILE.findall(document.read_text("utf-8")):
        assert any((place / name).exists() for place in places), f"{name} does not exist"


def test_every_document_is_in_the_site_s_menu_or_in_the_index_of_decisions() -> None:
    menu = (ROOT / "mkdocs.yml").read_text("utf-8")
    decisions = (ROOT / "docs" / "adr" / "README.md").read_text("utf-8")
    for document in ROOT.glob("docs/**/*.md"):
        is_decision = document.parent.name == "adr" and document.name != "README.md"
        name = document.name if is_decision else str(document.relative_to(ROOT / "docs"))
        assert name in (decisions if is_decision else menu), f"{name} is not listed"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").split()) < README_WORDS


def test_pictures_are_what_their_scripts_draw() -> None:
    images = ROOT / "docs" / "images"
    bars, blocks, path, cells = (
        runpy.run_path(str(images / f"draw_{name}.py")) for name in ("ttft", "blocks", "request_path", "cells")
    )
    assert bars["draw"](json.loads((images / "ttft.json").read_text("utf-8"))) == (images / "ttft.svg").read_text(
        "utf-8"
    )
    assert blocks["draw"]() == (images / "activated-lora.svg").read_text("utf-8")
    assert path["draw"]() == (images / "request-path.svg").read_text("utf-8")
    assert cells["draw"]() == (images / "cells.svg").read_text("utf-8")


@pytest.mark.parametrize("example", sorted(ROOT.glob("examples/*.*")), ids=lambda example: example.name)
def test_examples_are_short(example: Path) -> None:
    assert example.suffix == ".md" or len(example.read_text("utf-8").splitlines()) < EXAMPLE_LINES


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        named = re.findall(r"(?:`|^|# or: )make ([a-z][a-z0-9-]+)", document.read_text("utf-8"), re.MULTILINE)
        assert set(named) <= targets, f"{document.relative_to(ROOT)} names {set(named) - targets}"


def test_commands_and_flags_that_are_named_exist() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    groups = {name: command.commands for name, command in commands.items() if hasattr(command, "commands")}
    all_of = commands | {f"{group} {name}": each for group, found in groups.items() for name, each in found.items()}
    flags = {name: {flag for option in command.params for flag in option.opts + option.secondary_opts}
             for name, command in all_of.items()}  # fmt: skip
    for document in DOCUMENTS:
        code = "\n".join(CODE.findall(document.read_text("utf-8")))
        for named in COMMAND.findall(code):
            # A group alone stands for all of its commands.
            name = " ".join(named.split()[: 2 if named.split()[0] in groups else 1])
            assert name in all_of, f"{document.relative_to(ROOT)} names a command {name!r}"
            unknown = set(FLAG.findall(named)) - flags[name]
            assert not unknown, f"{document.relative_to(ROOT)}: aloraserve {name} has no {unknown}"


def test_the_configuration_lists_every_setting() -> None:
    text = (ROOT / "docs" / "reference" / "configuration.md").read_text("utf-8")
    assert set(re.findall(r"^\| `([a-z_]+)` \| `ALORASERVE_", text, re.MULTILINE)) == set(Settings.model_fields)
