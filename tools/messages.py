"""Every error message of the package, from its sources: `python tools/messages.py`.

One line each: file and line, class, and the sentence as it is written, {…} where a value will stand."""
import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAKERS = {"unreadable": "FileError", "cannot_write": "CannotWrite", "not_finite": "NonFiniteLoss"}   # of errors


def template(node: ast.AST) -> str:
    "The text of an expression, {…} for what it puts in."
    if isinstance(node, ast.Constant): return str(node.value)
    if isinstance(node, ast.JoinedStr): return "".join(map(template, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add): return template(node.left) + template(node.right)
    if isinstance(node, ast.IfExp): return f"{template(node.body)} | {template(node.orelse)}"
    inner = node.value if isinstance(node, ast.FormattedValue) else node
    return f"{{{ast.unparse(inner)}}}"


def is_error(name: str) -> bool:
    return name in MAKERS or name[:1].isupper() and name.endswith(("Error", "NewerFile", "Write", "Loss", "Died",
                                                                   "Undecodable"))


def messages(path: Path) -> Iterator[tuple[int, str, str]]:
    "Line, class and template of each error that a file makes."
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not node.args: continue
        name = ast.unparse(node.func).rpartition(".")[2]
        if not is_error(name): continue
        yield node.lineno, MAKERS.get(name, name), " / ".join(template(each) for each in node.args)


def main() -> int:
    count = 0
    for path in sorted(ROOT.glob("muni_nb/**/*.py")):
        for line, kind, told in sorted(messages(path)):
            print(f"{path.relative_to(ROOT)}:{line}\t{kind}\t{told}")
            count += 1
    print(f"{count} messages", file=sys.stderr)
    return 0


if __name__ == "__main__": sys.exit(main())
