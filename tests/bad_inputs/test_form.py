"""The form of every message in the source: what it is about, what was expected and what came."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ERRORS = (
    "ValueError",
    "TypeError",
    "IndexError",
    "ArgumentTypeError",
    "ContextOverflow",
    "FileNotFoundError",
)
# "name: expected .., got .."; its caller may put the name before it, or it may repeat another error behind a name.
FORM = re.compile(r"([^:]+: )*expected .*\bgot .*|([^:]+: )+\{error\}|\{.*error.*\}", re.DOTALL)


def text(node):
    """A message as it is written, with {expressions}."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text, node.values))
    if isinstance(node, ast.FormattedValue):
        return f"{{{ast.unparse(node.value)}}}"
    return None


def messages():
    for file in sorted(path for package in ("spae", "spae_ops") for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                kind = ast.unparse(node.exc.func).rpartition(".")[2]
                message = text(node.exc.args[0])
                if kind in ERRORS and message is not None:
                    # What a variable "expected" holds begins with that word.
                    yield (
                        f"{file.relative_to(ROOT)}:{node.lineno}",
                        message.replace("{expected}", "expected .."),
                    )


def test_form():
    found = list(messages())
    assert len(found) > 400
    assert [f"{place}: {message}" for place, message in found if not FORM.fullmatch(message)] == []
