"Draw which floor of the package imports from which: all arrows must point down. Writes nbs/house.svg."
import re
import sys
from collections import Counter
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ["latent", "nets", "data", "models", "training", "features", "evaluation", "experiments"]   # from the top


def imports() -> Counter:
    "{(from floor, to floor): modules of the first that import from the second}."
    found: Counter = Counter()
    for path in sorted((ROOT / "muni_nb").rglob("*.py")):
        floor, *inside = path.relative_to(ROOT / "muni_nb").parts
        if floor not in FLOORS: continue
        relative = re.findall(r"^from (\.\.+)(\w+)", path.read_text(), re.M)
        names = {name for dots, name in relative if len(dots) == 1 + len(inside)}
        found.update((floor, name) for name in sorted(names) if name in FLOORS)
    return found


def draw(found: Counter, target: Path) -> None:
    "A box a floor, and arrows from it to what uses it: the wider, the more modules do."
    plt.rcParams["svg.hashsalt"] = "muni_nb"
    fig, ax = plt.subplots(figsize=(7, 5))
    height = {floor: -i for i, floor in enumerate(FLOORS)}
    for floor, y in height.items():
        modules = len([p for p in (ROOT / "muni_nb" / floor).rglob("*.py") if p.name != "__init__.py"])
        box = {"boxstyle": "round", "fc": "white", "ec": "0.3"}
        ax.text(0, y, f"{floor} ({modules})", ha="center", va="center", bbox=box)
    for (user, used), count in found.items():
        start, end = height[used], height[user]
        side = 1 if (start - end) % 2 else -1
        bend = {"arrowstyle": "->", "color": "C0" if start > end else "C3", "lw": 0.6 + 0.15 * count,
                "connectionstyle": f"arc3,rad={-side * (0.25 + 0.06 * abs(start - end))}"}
        ax.annotate("", (side * 0.62, end), (side * 0.62, start), arrowprops=bend)
    ax.set(xlim=(-4, 4), ylim=(-len(FLOORS) + 0.4, 0.6))
    ax.axis("off")
    ax.set_title("what is used by what", fontsize=9)
    fig.savefig(target, metadata={"Date": None}, bbox_inches="tight")


if __name__ == "__main__":
    found = imports()
    up = [(user, used) for user, used in found if FLOORS.index(used) >= FLOORS.index(user)]
    draw(found, ROOT / "nbs" / "house.svg")
    for (user, used), count in sorted(found.items()): print(f"{used:>10} -> {user:<12} {count}")
    if up: sys.exit(f"these import upward: {up}")
