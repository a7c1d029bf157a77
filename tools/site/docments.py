"""Signatures as this package writes them, for mkdocstrings: comments beside arguments and fields, methods by @patch."""
import ast
import io
import tokenize

import griffe


def comments_of(source: str) -> dict[int, str]:
    """The comments of some code, by the number of the line that they speak of.

    One beside code speaks of it, and goes on below in the same column; one alone speaks of the next line."""
    said: dict[int, str] = {}
    line_before, column_before, owner = -1, -1, -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT: continue
        line, column = token.start
        alone = not token.line[:column].strip()
        if not alone: owner = line
        elif (line - 1, column) != (line_before, column_before) or owner == line: owner = line + 1
        ahead = said.pop(line, "") if owner > line else ""
        said[owner] = f"{said.get(owner, '')} {ahead} {token.string.lstrip('# ')}".strip()
        line_before, column_before = line, column
    return said


def beside(node: ast.AST | None, said: dict[int, str]) -> str:
    "What is said of a piece of code."
    if node is None: return ""
    return said.get(node.lineno) or said.get(node.end_lineno) or ""


def add(told: griffe.Function, text: str) -> None:
    "Put a section below a docstring."
    if told.docstring is None: told.docstring = griffe.Docstring(text, parent=told)
    else: told.docstring.value += f"\n\n{text}"


class Docments(griffe.Extension):
    "Comments become descriptions of parameters and attributes, patched functions methods."
    said: dict[int, str] = {}

    def on_module_instance(self, *, node, mod, agent, **others) -> None:
        self.said = comments_of(mod.filepath.read_text(encoding="utf-8"))

    def on_function_instance(self, *, node, func, agent, **others) -> None:
        a = node.args
        given = [*a.posonlyargs, *a.args, *a.kwonlyargs]
        names = {each.arg: each for each in given}
        if a.vararg: names[f"*{a.vararg.arg}"] = a.vararg
        if a.kwarg: names[f"**{a.kwarg.arg}"] = a.kwarg
        below = {name: each for name, each in names.items() if each.lineno > node.lineno}    # on lines of their own
        told = {name: beside(each, self.said) for name, each in below.items()}
        lines = [f"    {name}: {text}" for name, text in told.items() if text]
        if lines: add(func, "\n".join(["Parameters:", *lines]))
        returned = beside(node.returns, self.said)
        if returned and node.returns.lineno > node.lineno: add(func, f"Returns:\n    {returned}")

    def on_attribute_instance(self, *, node, attr, agent, **others) -> None:
        said = beside(node, self.said) if isinstance(node, ast.AnnAssign | ast.Assign) else ""
        if said and attr.docstring is None: attr.docstring = griffe.Docstring(said, parent=attr)

    def on_module_members(self, *, node, mod, agent, **others) -> None:
        for name, func in list(mod.members.items()):
            if not isinstance(func, griffe.Function): continue
            if not any(str(each.value).startswith("patch") for each in func.decorators): continue
            owner = mod.members.get(str(func.parameters[0].annotation))
            if not isinstance(owner, griffe.Class): continue
            mod.del_member(name)
            owner.set_member(name, func)
