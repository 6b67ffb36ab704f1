"""YAML in which a key stands once: PyYAML would keep the last one and drop the others in silence."""

from typing import Any

import yaml


def load(text: str) -> Any:
    """Raises yaml.YAMLError."""
    return yaml.load(text, _OnceOnlyLoader)


class _OnceOnlyLoader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        doubled = next((name for name in names if names.count(name) > 1), None)
        if doubled is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {doubled} occurs twice", node.start_mark)
        return super().construct_mapping(node, deep)
