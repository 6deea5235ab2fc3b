"""Write the chart's README from its values, and the settings that its schema accepts: ``make chart``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from aloraserve.settings import Settings

CHART = Path(__file__).parent / "aloraserve"
MARK = "# -- "
HEAD = """# The chart of aloraserve

One base model with many LoRA and Activated LoRA adapters on Kubernetes: a RayService of KubeRay 1.7 with gateways and
engines in worker groups of their own, a Redis, and what a cluster has around it. How to use it:
[docs/howto/kubernetes.md](../../docs/howto/kubernetes.md). Profiles to begin with are in the folder `ci`.

```bash
helm install llm helm/aloraserve --namespace models --create-namespace --values my-values.yaml
```

## Values
A value that is not accepted, or does not fit another one, is refused by name before anything is made.
`make chart` writes this page from [values.yaml](values.yaml).

| value | default | meaning |
|---|---|---|
"""
MAX_DEFAULT = 60


def rows(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield path, default and meaning of every value that has a default of its own.

    Args:
        text: of ``values.yaml``.
    """
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    yield from _rows(root, "", text.splitlines())


def _rows(mapping: yaml.MappingNode, above: str, lines: list[str]) -> Iterator[tuple[str, str, str]]:
    for key, value in mapping.value:
        path, meaning = f"{above}{key.value}", _comment(lines, key.start_mark.line)
        if isinstance(value, yaml.MappingNode) and value.value and not value.flow_style:
            if meaning:
                yield path, "", meaning
            yield from _rows(value, f"{path}.", lines)
        elif isinstance(value, yaml.SequenceNode) and value.value and _is_of_groups(value):
            yield path, "", meaning
            yield from _rows(value.value[0], f"{path}[].", lines)
        else:
            yield path, _default(value), meaning


def _is_of_groups(value: yaml.SequenceNode) -> bool:
    """Return whether a list's entries have values of their own, and comments."""
    first = value.value[0]
    return isinstance(first, yaml.MappingNode) and any(key.value == "name" for key, _ in first.value)


def _comment(lines: list[str], line: int) -> str:
    found: list[str] = []
    while line and (above := lines[line - 1].strip().removeprefix("- ")).startswith(MARK):
        found.insert(0, above.removeprefix(MARK))
        line -= 1
    return " ".join(found)


def _default(value: yaml.Node) -> str:
    text = json.dumps(yaml.safe_load(yaml.serialize(value)), ensure_ascii=False)
    return f"`{text}`" if len(text) <= MAX_DEFAULT else "see values.yaml"


def readme(text: str) -> str:
    """Return the README for these values."""
    table = (
        f"| `{path}` | {default} | {meaning.replace('|', chr(92) + '|')} |\n" for path, default, meaning in rows(text)
    )
    return HEAD + "".join(table)


def schema(text: str) -> str:
    """Return the values' schema with the settings that there are now."""
    content = json.loads(text)
    content["properties"]["config"]["properties"] = {key: {} for key in sorted(Settings.model_fields)}
    return json.dumps(content, indent=2) + "\n"


def main() -> int:
    """Write both files."""
    (CHART / "README.md").write_text(readme((CHART / "values.yaml").read_text()))
    file = CHART / "values.schema.json"
    file.write_text(schema(file.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
